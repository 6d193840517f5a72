"""A proposer that does what the question says, and questions for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sdrpn_core.answering.crop_encoding import encode_crops
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.proposer import Proposal, Proposer
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.grid.roi_map import RoIMap
from tests.readers import KeepsHidden
from tests.tiny import tiny_image

GRID = 7
SURE = 8.0
#: Corners (row, column) of 2x2 blocks of high scores, by what the box policy makes of them.
BLOCKS = {
    "one": ((2, 2),),
    "two": ((0, 0), (4, 4)),
    "three": ((0, 0), (0, 5), (5, 2)),
    "none": (),
}


def blocks_map(name: str) -> RoIMap:
    scores = np.full((GRID, GRID), -SURE, dtype=np.float32)
    for row, column in BLOCKS[name]:
        scores[row : row + 2, column : column + 2] = SURE
    return RoIMap(scores)


class Scripted(Proposer):
    """Proposes regions from maps named by the question's text: ``"one none: how many ?"``."""

    reader = KeepsHidden(2)

    def __init__(self, policy=None):
        self.policy = policy or BboxPolicy()

    def propose(self, state):
        proposals = []
        for question, prompt in zip(state.questions, state.prompts, strict=True):
            names = question.text.partition(":")[0].split()
            row = []
            for name, geometry in zip(names, prompt.geometries, strict=False):
                roi = blocks_map(name)
                row.append(Proposal(self.policy.plan(roi, geometry), roi))
            proposals.append(row)
        return proposals


def spliced(backbone, question, proposer=None):
    """The prompt of a question, the crops that are proposed for it encoded one by one."""
    (prompt,) = backbone.encode([question])
    if proposer is None:
        return prompt
    (proposals,) = proposer.propose(prefill(backbone, [question], proposer.reader))
    groups = []
    for image, proposal in zip(question.images, proposals, strict=True):
        segments = []
        for crop in proposal.plan.crops:
            plan = replace(proposal.plan, crops=(crop,))
            ((_, found),) = encode_crops(backbone, [(image, plan)])
            segments.extend(found)
        groups.append(tuple(segments))
    return prompt.with_crops(tuple(groups))


IMAGES = (tiny_image(0), tiny_image(1, (60, 90)), tiny_image(2, (200, 40)))
QUESTIONS = {
    "ok": Question("one : what color is the square ?", IMAGES[:1]),
    "two crops": Question("two : how many ?", IMAGES[1:2]),
    "too many": Question("three : which letter ?", IMAGES[2:]),
    "nothing": Question("none : read the small sign", IMAGES[:1]),
    "no image": Question("three : what is the name of the letter ?"),
    "both": Question("one two : which is near the circle ?", IMAGES[:2]),
    "first only": Question("one none : which is red ?", IMAGES[1:]),
    "second only": Question("three one : is the dot in the top image blue ?", IMAGES[:2]),
}
#: The same, too long beside their prefixes to run along with them in one pass.
LONG_QUESTIONS = {
    name: replace(question, text=question.text + " and the word above" * 8)
    for name, question in QUESTIONS.items()
}
N_CROPS = dict(zip(QUESTIONS, (1, 2, 0, 0, 0, 3, 1, 1), strict=True))
