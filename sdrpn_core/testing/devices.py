"""Devices: float32 on the CPU, and bfloat16 on CUDA, with flash-attention where installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
import torch

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.decoder import decoder_layers
from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.model import RPN
from sdrpn_core.taps.attention_tap import AttentionTap
from sdrpn_core.taps.feature_tap import FeatureTap
from sdrpn_core.testing.checks import check, check_close
from sdrpn_core.testing.encoding import PREPROCESSING
from sdrpn_core.testing.images import block_image
from sdrpn_core.testing.regions import FixedRegion
from sdrpn_core.testing.subject import ContractSubject
from sdrpn_core.testing.taps import decoder_inputs

if TYPE_CHECKING:
    from torch import nn

#: bfloat16 keeps 8 bits of mantissa.
_BFLOAT16_TOLERANCE = 2e-2


class DeviceChecks(ContractSubject):
    """The same adapter on both devices. Checks that need CUDA skip themselves without it."""

    @pytest.fixture(scope="class")
    @classmethod
    def cuda_backbone(cls) -> Backbone:
        """The adapter in bfloat16 on CUDA, with flash-attention where it is installed."""
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        flash = find_spec("flash_attn") is not None
        backbone = cls.made(attn_implementation="flash_attention_2" if flash else "sdpa")
        model: nn.Module = backbone.model
        model.to("cuda", torch.bfloat16)
        return backbone

    def test_it_runs_in_float32_on_the_cpu(self, backbone: Backbone) -> None:
        """The other checks rely on this."""
        check(
            backbone.model.dtype == torch.float32 and backbone.device.type == "cpu",
            f"make: the model is {backbone.model.dtype} on {backbone.device}, expected float32 on "
            "the CPU",
        )

    def test_inputs_follow_the_model(self, backbone: Backbone) -> None:
        """Floating point inputs of the encoder have the model's dtype: see ``to_model``."""
        half = self.made()
        half.model.to(torch.bfloat16)
        for method in PREPROCESSING:
            tensors = getattr(half, method)(block_image(0, self.sizes[0])).tensors
            wrong = [
                name
                for name, tensor in tensors.items()
                if tensor.is_floating_point() and tensor.dtype != torch.bfloat16
            ]
            check(
                not wrong,
                f"{method}: {wrong} are not in the model's dtype: pass them through to_model",
            )

    def test_images_are_prepared_without_the_weights(self, backbone: Backbone) -> None:
        """In threads and processes of their own, ahead of need: see ``Preprocessor``."""
        image = block_image(0, self.sizes[0])
        expected = backbone.preprocess(image)
        try:
            found = Preprocessor(backbone)(image)
        except AttributeError as error:
            raise AssertionError(
                "preprocess: of the model, only config, dtype and device may be read, as to_model "
                f"does: {error}"
            ) from error
        check(
            found.geometry == expected.geometry
            and found.tensors.keys() == expected.tensors.keys()
            and all(torch.equal(found.tensors[k], part) for k, part in expected.tensors.items()),
            "preprocess: without the model's weights, it makes something else of an image",
        )

    @torch.no_grad()
    def test_the_taps_work_in_bfloat16_on_cuda(self, cuda_backbone: Backbone) -> None:
        """States at the branch layer to the bit; attention rows that sum to one."""
        inputs = decoder_inputs(cuda_backbone, self)
        mask = inputs["attention_mask"].bool()
        states = cuda_backbone.decoder(**inputs, output_hidden_states=True).hidden_states
        with FeatureTap(cuda_backbone.decoder, self.branch) as tap:
            features = tap.run(**inputs)
        layer = decoder_layers(cuda_backbone.decoder)[self.branch]
        check_close(
            layer(features.hidden, **features.layer_kwargs)[mask],
            states[self.branch + 1][mask],
            f"decoder: the states tapped at layer {self.branch} do not lead to its hidden_states",
            tolerance=0,
        )
        with AttentionTap(cuda_backbone.decoder, {0: None}, queries=slice(-1, None)) as attention:
            cuda_backbone.decoder(**inputs)
        rows = attention.weights(0)[:, :, 0]
        check_close(
            rows.sum(-1),
            torch.ones_like(rows[..., 0]),
            "decoder: attention rows do not sum to one",
            tolerance=_BFLOAT16_TOLERANCE,
        )
        padding = ~mask[:, None].expand_as(rows)
        check(not rows[padding].any(), "decoder: attention rows reach into the padding")

    def test_two_stage_answers_work_in_bfloat16_on_cuda(self, cuda_backbone: Backbone) -> None:
        """With crops of a fixed region, and with those that an RPN proposes."""
        rpn = RPN.from_backbone(cuda_backbone, RPNConfig(self.branch, self.n_rpn_layers))
        questions = self.questions()
        for proposer in (FixedRegion(), RPNProposer(rpn)):
            answers = answer_batch(cuda_backbone, questions, proposer, max_new_tokens=2)
            shown = [len(one.proposals) for one in answers]
            check(
                shown == [len(question.images) for question in questions],
                f"encode: proposals for {shown} images",
            )
