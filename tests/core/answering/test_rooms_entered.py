"""A reader who follows one answer through the core enters few of its rooms."""

from __future__ import annotations

import sys
from pathlib import Path

import sdrpn_core
from sdrpn_core.answering.answer import answer
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.rpn.model import RPN
from tests.tiny import tiny_image, tiny_llava

CORE = Path(sdrpn_core.__file__).parent
MOST_ROOMS = 12


def test_one_answer_with_an_rpn_enters_few_rooms():
    """Counted are the entries directly under ``sdrpn_core/`` whose functions are called."""
    backbone = tiny_llava()
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2)
    everything = BboxPolicy(threshold=1e-6, max_area_fraction=1.0)
    files = set()

    def note(frame, event, arg):
        if event == "call":
            files.add(Path(frame.f_code.co_filename))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        found = answer(
            backbone,
            tiny_image(0),
            "which letter is on the left of the small circle ?",
            rpn=rpn,
            policy=everything,
            max_new_tokens=2,
        )
    finally:
        sys.setprofile(before)
    assert found.boxes
    inside = [path.relative_to(CORE) for path in files if path.is_relative_to(CORE)]
    rooms = {path.parts[0] for path in inside}
    assert {"answering", "rpn", "runtime", "crops"} <= rooms
    assert len(rooms) <= MOST_ROOMS, sorted(rooms)
