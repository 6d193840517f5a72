"""Sampled candidates are judged as the policy would crop them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.proposer import Proposal
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy, source_boxes
from sdrpn_core.crops.candidates import RegionSampler
from sdrpn_core.crops.policy import Crop, CropPlan, Outcome
from sdrpn_core.data.record import Record
from sdrpn_core.grid.geometry import PaddedSquare
from sdrpn_core.grid.roi_map import RoIMap
from sdrpn_core.rpn.model import RPN
from sdrpn_core.utility.candidates import SAMPLED, RPNCandidates
from tests.tiny import tiny_image, tiny_llava


def test_they_have_the_margin_of_the_policy():
    backbone = tiny_llava(grid=8)
    torch.manual_seed(0)
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=1)
    options = {"threshold": 0.5, "relative": True, "margin": 0.5}
    rpn.config = replace(rpn.config, policy="bbox", policy_options=options)
    image, question = tiny_image(0, (112, 112)), "what color ?"
    state = prefill(backbone, [Question(question, (image,))], rpn)
    sampler = RegionSampler(n=6, min_area=1)
    source = RPNCandidates(RPNProposer(rpn), sampler)
    (found,) = source.propose(state, [Record("r", image, question)])
    plans = [proposal.plan for source, proposal in found if source == SAMPLED]
    assert len(plans) >= 5
    (geometry,) = state.prompts[0].geometries
    for plan in plans:
        regions = tuple(crop.grid_box for crop in plan.crops)
        assert [crop.box for crop in plan.crops] == source_boxes(regions, geometry, margin=0.5)


def test_the_region_of_the_policy_is_judged_once():
    """Whatever the order of its boxes: the sampler's ascend, and regions are found row by row."""
    geometry = PaddedSquare((112, 112), (8, 8), 112)
    upper, lower = (5, 0, 7, 2), (1, 5, 3, 7)
    own = Proposal(
        CropPlan(Outcome.OK, tuple(Crop(box, box) for box in (upper, lower))),
        RoIMap(np.zeros((8, 8), np.float32)),
    )
    proposer = SimpleNamespace(policy=BboxPolicy(), propose=lambda state: [[own]])
    drawn = [(upper,), (lower, upper), (lower,)]
    source = RPNCandidates(proposer, lambda probabilities, content, key: drawn)
    state = SimpleNamespace(prompts=[SimpleNamespace(geometries=[geometry])])
    (found,) = source.propose(state, [Record("r", (), "what color ?")])
    regions = [tuple(crop.grid_box for crop in one.plan.crops) for _, one in found]
    assert regions == [(upper, lower), (upper,), (lower,)]
