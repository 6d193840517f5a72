"""The taps: what is read inside the decoder is what the decoder computes."""

from __future__ import annotations

from typing import Any

import torch

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.decoder import decoder_layers
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.attention_tap import AttentionTap
from sdrpn_core.taps.feature_tap import FeatureTap
from sdrpn_core.testing.checks import check, check_close
from sdrpn_core.testing.subject import ContractSubject

_TOLERANCE = 1e-5


class TapChecks(ContractSubject):
    """Features, early stop and attention rows, on a left-padded batch."""

    @torch.no_grad()
    def test_tapped_features_equal_hidden_states(self, backbone: Backbone) -> None:
        """Layer B makes ``output_hidden_states[B + 1]`` of the states tapped there, to the bit.

        Not ``output_hidden_states[B]``: a decoder may add to what leaves a layer.
        """
        inputs = decoder_inputs(backbone, self)
        hidden = backbone.decoder(**inputs, output_hidden_states=True).hidden_states
        mask = inputs["attention_mask"].bool()
        for layer in sorted({0, self.branch, backbone.n_layers - 2}):
            with FeatureTap(backbone.decoder, layer) as tap:
                features = tap.run(**inputs)
            found = decoder_layers(backbone.decoder)[layer](
                features.hidden, **features.layer_kwargs
            )
            check_close(
                found[mask],
                hidden[layer + 1][mask],
                f"decoder: the states tapped at layer {layer} do not lead to "
                f"hidden_states[{layer + 1}]: layers[i] must be the decoder's i-th layer, called "
                "with the states first",
                tolerance=0,
            )

    @torch.no_grad()
    def test_early_stop_runs_no_layer_from_the_branch_on(self, backbone: Backbone) -> None:
        """The early stop is what makes the first stage cheap."""
        inputs = decoder_inputs(backbone, self)
        ran: list[int] = []
        handles = [
            layer.register_forward_hook(lambda *_, index=index: ran.append(index))
            for index, layer in enumerate(backbone.layers)
        ]
        try:
            with FeatureTap(backbone.decoder, self.branch) as tap:
                tap.run(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        check(
            ran == list(range(self.branch)),
            f"decoder: stopped at layer {self.branch}, the layers {ran} ran: layers must be those "
            "that the decoder calls, each once and in order",
        )

    @torch.no_grad()
    def test_tapped_attention_equals_eager(self, backbone: Backbone) -> None:
        """Rows tapped under sdpa are eager's ``attentions``; the tap changes no output."""
        eager = self.made(attn_implementation="eager")
        used = eager.decoder.config._attn_implementation
        check(
            used == "eager",
            f"make: asked for attn_implementation='eager', the decoder has {used!r}: pass it on",
        )
        eager.model.load_state_dict(backbone.model.state_dict())
        inputs = decoder_inputs(backbone, self)
        layers = (0, backbone.n_layers - 1)
        before = backbone.decoder(**inputs).last_hidden_state
        with AttentionTap(backbone.decoder, dict.fromkeys(layers)) as tap:
            output = backbone.decoder(**inputs).last_hidden_state
        check(
            torch.equal(output, before),
            "decoder: its output changes while attention is tapped: every layer's self_attn must "
            "compute attention through transformers' AttentionInterface",
        )
        prompts = backbone.encode(self.questions())
        for row, (prompt, real) in enumerate(
            zip(prompts, inputs["attention_mask"].bool(), strict=True)
        ):
            expected = eager.decoder(
                inputs_embeds=backbone.embed(prompt)[None],
                position_ids=prompt_block(backbone, [prompt]).positions,
                output_attentions=True,
            ).attentions
            for layer in layers:
                tapped = tap.weights(layer)[row][:, real]
                check_close(
                    tapped[..., real],
                    expected[layer][0].float(),  # as the tap computes them
                    f"decoder: attention rows tapped in layer {layer} of a left-padded batch "
                    "differ from eager attention of the prompt alone",
                    tolerance=_TOLERANCE,
                )
                check(
                    not tapped[..., ~real].any(),
                    f"decoder: attention rows tapped in layer {layer} reach into the padding",
                )


def decoder_inputs(backbone: Backbone, subject: ContractSubject) -> dict[str, Any]:
    """The contract's questions as a left-padded batch for the decoder."""
    return prompt_block(backbone, backbone.encode(subject.questions())).model_inputs()
