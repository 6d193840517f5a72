"""The RPN: built from the backbone's layers, trained, saved, loaded, and rejected if foreign."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.errors import CheckpointError
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.model import RPN
from sdrpn_core.rpn.prediction import predict_prompt_roi, prompt_features
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.testing.checks import check, check_close
from sdrpn_core.testing.subject import ContractSubject

#: Ways to score that rely on different parts of the decoder.
_SETTINGS: dict[str, Mapping[str, Any]] = {
    "rotary": {},
    "projections": {"head_options": {"rope": False}},
    "convolutions": {"head": "conv"},
}
_OTHER_WEIGHTS = 0.5
_STATES = 1e-3


class RPNChecks(ContractSubject):
    """Copies of the decoder's layers are trainable by themselves, and belong to one backbone."""

    @pytest.mark.parametrize("settings", _SETTINGS.values(), ids=_SETTINGS)
    def test_an_rpn_trains_saves_and_loads(
        self, backbone: Backbone, tmp_path: Path, settings: Mapping[str, Any]
    ) -> None:
        """Gradients reach all of the RPN and none of the model; loading restores its maps."""
        rpn = self._rpn(backbone, **settings).train()
        prompts = backbone.encode(self.questions())
        features, places = prompt_features(backbone, prompts, self.branch)
        rpn(features, places).scores.square().sum().backward()
        idle = [name for name, p in rpn.named_parameters() if p.grad is None]
        check(not idle, f"layers: no gradient reaches {idle[:3]} of the RPN")
        touched = [name for name, p in backbone.model.named_parameters() if p.grad is not None]
        check(not touched, f"__init__: training an RPN left gradients on the model: {touched[:3]}")
        rpn.eval().save_pretrained(tmp_path)
        loaded = RPN.from_pretrained(tmp_path, backbone=backbone)
        maps, again = (predict_prompt_roi(backbone, prompts, one) for one in (rpn, loaded))
        geometries = [geometry for prompt in prompts for geometry in prompt.geometries]
        for one, other, geometry in zip(maps, again, geometries, strict=True):
            check(
                one.grid == geometry.grid,
                f"preprocess: an RoI map has the grid {one.grid}, its image {geometry.grid}",
            )
            check(
                np.array_equal(one.scores, other.scores),
                "layers: an RPN that was saved and loaded scores differently",
            )

    @torch.no_grad()
    def test_a_new_trunk_computes_the_decoders_states(self, backbone: Backbone) -> None:
        """Copied layers, each with its own mask and rotary embeddings, on a left-padded batch."""
        rpn = RPN.from_backbone(
            backbone, RPNConfig(self.branch, self.n_rpn_layers, head="conv", final_norm=False)
        )
        prompts = backbone.encode(self.questions())
        features, _ = prompt_features(backbone, prompts, self.branch)
        found = rpn.trunk(features).hidden
        for row, prompt in enumerate(prompts):
            block = prompt_block(backbone, [prompt])
            states = backbone.decoder(
                inputs_embeds=block.embeds,
                attention_mask=block.mask,
                position_ids=block.positions,
                use_cache=False,
                output_hidden_states=True,
            ).hidden_states
            check_close(
                found[row, -len(prompt) :],
                states[self.branch + self.n_rpn_layers][0],
                "n_injections or layers: copies of the decoder's layers do not compute what these "
                "do: something is added between them, or they are called with other arguments",
                tolerance=_STATES,
            )

    def test_an_rpn_of_another_backbone_is_refused(
        self, backbone: Backbone, tmp_path: Path
    ) -> None:
        """The same architecture with other weights is another backbone."""
        other = self.made()
        with torch.no_grad():
            for parameter in other.model.parameters():
                parameter.add_(_OTHER_WEIGHTS)
        self._rpn(other).save_pretrained(tmp_path)
        try:
            RPN.from_pretrained(tmp_path, backbone=backbone)
        except CheckpointError:
            return
        raise AssertionError(
            "layers or embedding: the RPN of a backbone with other weights was attached: both must "
            "be those of the model"
        )

    def _rpn(self, backbone: Backbone, **settings: Any) -> RPN:
        """An RPN of the same configuration whatever preset there may be."""
        config = RPNConfig(self.branch, self.n_rpn_layers, final_norm=True, **settings)
        return RPN.from_backbone(backbone, config)
