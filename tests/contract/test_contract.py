"""Every registered backbone keeps the contract, on a small random model of its family."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch

from sdrpn_core.plugins.manager import get_plugins
from sdrpn_core.testing import BackboneContract
from sdrpn_deepseek_vl.backbone import DeepseekVLBackbone
from tests.contract.subjects import LlavaSubject, bare, between_vision_tokens
from tests.tiny import CHAT_TEMPLATE, tiny_llava
from tests.tiny_deepseek_vl import tiny_deepseek_vl, tiny_deepseek_vl_hybrid
from tests.tiny_gemma3 import tiny_gemma3
from tests.tiny_mistral3 import CELL as MISTRAL_CELL
from tests.tiny_mistral3 import tiny_mistral3
from tests.tiny_qwen2_5_vl import MAX_TOKENS, MIN_TOKENS, tiny_qwen2_5_vl
from tests.tiny_qwen3_vl import tiny_qwen3_vl
from tests.tiny_smolvlm import tiny_smolvlm

#: How loud the second of two encoders is beside the first.
_QUIET = 0.05


def two_encoders(attn_implementation: str = "sdpa") -> DeepseekVLBackbone:
    """A hybrid whose second encoder is quiet.

    Two strided convolutions, centered on a token's top left, end that encoder. With random weights
    they make a neighbor move more than the token itself, wherever the image lies.
    """
    backbone = tiny_deepseek_vl_hybrid(attn_implementation=attn_implementation)
    with torch.no_grad():
        backbone.model.base_model.aligner.high_res_vision_proj.weight.mul_(_QUIET)
    return backbone


class TestLlava(LlavaSubject, BackboneContract):
    make = staticmethod(partial(tiny_llava, chat_template=CHAT_TEMPLATE))


class TestQwen25VL(BackboneContract):
    crop_frame = staticmethod(between_vision_tokens)
    make = staticmethod(tiny_qwen2_5_vl)
    min_visual_tokens = MIN_TOKENS
    max_visual_tokens = MAX_TOKENS


class TestQwen3VL(BackboneContract):
    make = staticmethod(tiny_qwen3_vl)
    min_visual_tokens = MIN_TOKENS
    max_visual_tokens = MAX_TOKENS


class TestGemma3(BackboneContract):
    stock_options: ClassVar = {"do_pan_and_scan": False}
    make = staticmethod(tiny_gemma3)


class TestMistral3(BackboneContract):
    stock_options: ClassVar = {"patch_size": MISTRAL_CELL}
    make = staticmethod(tiny_mistral3)


class TestSmolVLM(BackboneContract):
    stock_options: ClassVar = {"do_image_splitting": False}
    make = staticmethod(tiny_smolvlm)


class TestIdefics3(BackboneContract):
    stock_options: ClassVar = {"do_image_splitting": False}
    make = staticmethod(partial(tiny_smolvlm, idefics=True))


class TestDeepseekVL(BackboneContract):
    crop_frame = staticmethod(bare)
    make = staticmethod(tiny_deepseek_vl)


class TestDeepseekVLHybrid(BackboneContract):
    crop_frame = staticmethod(bare)
    make = staticmethod(two_encoders)


def test_every_backbone_that_ships_has_a_contract():
    plugins = get_plugins()
    ours = {info.name for info in plugins.infos if info.origin == "sdrpn"}
    shipped = {
        plugins.backbones.get(entry.name)
        for entry in plugins.backbones.entries()
        if entry.origin in ours
    }
    contracts = (
        TestLlava,
        TestQwen25VL,
        TestQwen3VL,
        TestGemma3,
        TestMistral3,
        TestSmolVLM,
        TestIdefics3,
        TestDeepseekVL,
        TestDeepseekVLHybrid,
    )
    assert {type(contract.make()) for contract in contracts} == shipped
