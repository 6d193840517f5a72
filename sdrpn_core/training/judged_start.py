"""How a utility run looked, and whether it judged the RPN that training goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.rpn.map_checksum import map_checksum
from sdrpn_core.rpn.model import RPN
from sdrpn_core.utility.candidates import RPN_REGION, policy_facts

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.crops.policy import CropPolicy
    from sdrpn_core.utility.run import UtilityDataset


def first_look(rows: UtilityDataset, backbone: Backbone) -> Preprocessor:
    """Prepares images as the run looked at them first, with as many visual tokens.

    Args:
        rows: the run.
        backbone: the frozen model.

    Raises:
        ConfigError: the run had a budget, and the family's resolution is fixed.
    """
    n_tokens = rows.manifest.provenance.get("first_look_tokens")
    return Preprocessor(backbone.looking_with(n_tokens))


def judges_another_map(rows: UtilityDataset, rpn: Path, backbone: Backbone) -> bool:
    """Whether the judged regions are of another RPN's map; a run of given boxes has none.

    Args:
        rows: the run.
        rpn: local folder of the RPN.
        backbone: the frozen model.

    Raises:
        CheckpointError: broken files, or an RPN of another backbone.
    """
    provenance = rows.manifest.provenance
    if provenance.get("rpn") is None:
        return False
    # A run has loaded it in the backbone's dtype of then.
    dtype = getattr(torch, provenance["compute"]["dtype"])
    judged = RPN.from_pretrained(rpn, backbone=backbone, dtype=dtype)
    return map_checksum(judged) != provenance["rpn"]


def policy_differences(rows: UtilityDataset, policy: CropPolicy) -> list[str]:
    """What the crop policy of the judged regions differs in from another one, in words.

    Args:
        rows: the run, of an RPN's regions.
        policy: the other one.
    """
    there: Mapping[str, Any] = rows.manifest.provenance["candidates"][RPN_REGION]
    here = json.loads(json.dumps(policy_facts(policy)))  # what JSON makes of tuples
    if there["policy"] != here["policy"]:
        return [f"policy is {there['policy']} there and {here['policy']} here"]
    judged, own = there["options"], here["options"]
    return [
        f"{name} is {judged.get(name, 'absent')} there and {own.get(name, 'absent')} here"
        for name in sorted(judged.keys() | own.keys())
        if judged.get(name) != own.get(name)
    ]
