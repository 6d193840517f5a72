"""A utility run written by hand, whose regions are worth what a test says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.crops.policy import CropPolicy
from sdrpn_core.rpn.map_checksum import map_checksum
from sdrpn_core.rpn.model import RPN
from sdrpn_core.utility.candidates import policy_facts
from sdrpn_core.utility.row import Candidate, UtilityRow
from sdrpn_core.utility.run import UtilityManifest, open_run
from tests.tiny import tiny_image

QUESTION = "what color ?"
_PLAIN = -3.0
_BOX = ((0, 0, 9, 9),)


def write_judged(
    backbone: Backbone,
    rpn: RPN,
    folder: Path,
    utilities: Sequence[float | None],
    first_look_tokens: int | None = None,
    policy: CropPolicy | None = None,
) -> Path:
    """Write a run of one shard; its images lie beside it.

    Args:
        backbone: whose run it is.
        rpn: whose regions are judged.
        folder: of the run.
        utilities: per record that of the RPN's region; ``None``: it was not judged. Another
            candidate is worth the opposite.
        first_look_tokens: of whole images.
        policy: crops the RPN's regions; default: its own.
    """
    images = folder.with_name(f"{folder.name}-images")
    images.mkdir(parents=True)
    rows = []
    for index, utility in enumerate(utilities):
        path = images / f"{index}.png"
        image = tiny_image(index)
        image.save(path)
        candidates = [Candidate("sampled", _BOX, _BOX, 4, _PLAIN - (utility or 0.0))]
        if utility is not None:
            candidates.append(Candidate("rpn", _BOX, _BOX, 4, _PLAIN + utility))
        rows.append(
            UtilityRow(
                index=index,
                id=f"r{index}",
                question=QUESTION,
                image=path,
                response="red",
                response_ids=(5,),
                plain=_PLAIN,
                candidates=tuple(candidates),
                geometry=backbone.preprocess(image).geometry,
            )
        )
    provenance = {
        "backbone": backbone_identity(backbone, branch=0),
        "rpn": map_checksum(rpn),
        "candidates": {"rpn": policy_facts(policy or rpn.config.crop_policy())},
        "first_look_tokens": first_look_tokens,
        "compute": {"dtype": str(backbone.model.dtype).removeprefix("torch.")},
    }
    manifest = UtilityManifest(len(rows), "fingerprint", len(rows), provenance, "tiny")
    open_run(folder, manifest).write_shard(0, rows)
    return folder
