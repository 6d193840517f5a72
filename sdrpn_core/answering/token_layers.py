"""The cost of an answer in token-layers, which does not depend on the machine.

One token-layer is one token going through one decoder layer. Padding counts as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sdrpn_core.backbone.decoder import part
from sdrpn_core.taps.thread_hooks import ThreadHook

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.rpn.model import RPN


@dataclass(frozen=True)
class AnswerShape:
    """The lengths in tokens that determine the cost of a two-stage answer.

    Attributes:
        prefix: up to the end of the image.
        question: all that follows it in the prompt.
        crop: what is inserted for the second pass, framing included; 0 without a region.
        response: generated tokens that are fed back, i.e. all but the last.
        rerun: tokens of the prefix that run again for the second pass, because tokens before them
            were inserted or dropped: see :mod:`~sdrpn_core.answering.pruning`.
    """

    prefix: int
    question: int
    crop: int = 0
    response: int = 0
    rerun: int = 0

    def baseline(self, n_layers: int) -> int:
        """Token-layers of the plain answer."""
        return (self.prefix + self.question + self.response) * n_layers

    def floor(self, n_layers: int, branch: int) -> int:
        """Lower bound of the decoder's token-layers in a two-stage answer.

        The prefix runs once through all L layers, the question up to the branch layer and then,
        behind the crop, through all layers.
        """
        first = self.prefix * n_layers + self.question * branch
        return first + self.second_pass(n_layers)

    def second_pass(self, n_layers: int) -> int:
        """Token-layers of the decoder behind the first pass, the response included."""
        return (self.rerun + self.crop + self.question + self.response) * n_layers

    def in_one_pass(self, n_layers: int) -> int:
        """Token-layers of the decoder when the question runs together with the prefix.

        The question then takes all L layers. Without a crop this is the plain answer.
        """
        again = self.rerun + self.crop + self.question if self.crop else 0
        return self.baseline(n_layers) + again * n_layers

    def recomputed(self, n_layers: int, branch: int) -> int:
        """Token-layers if nothing is reused between the passes, as in the published code."""
        first = (self.prefix + self.question) * branch
        second = self.prefix + self.crop + self.question + self.response
        return first + second * n_layers

    def rpn(self, n_trunk_layers: int) -> int:
        """Token-layers of the RPN's trunk."""
        return (self.prefix + self.question) * n_trunk_layers


class TokenLayerCounter:
    """Context manager that counts the token-layers that its thread actually runs.

    Args:
        backbone: the model.
        rpn: an RPN whose trunk and gate are counted as well.

    Attributes:
        token_layers: of the decoder, forward.
        backward_token_layers: of the decoder, backward: tokens in layers that gradients went
            through.
        sequences: rows of the passes through the decoder that took more than one token each; steps
            of decoding are left out.
        rpn_token_layers: of the RPN's trunk, and of its gate's own layers.
    """

    def __init__(self, backbone: Backbone, rpn: RPN | None = None) -> None:
        self.token_layers = 0
        self.backward_token_layers = 0
        self.sequences = 0
        self.rpn_token_layers = 0
        self._layers: list[nn.Module] = list(backbone.layers)
        self._trunk: list[nn.Module] = [] if rpn is None else list(rpn.layers)
        if rpn is not None and rpn.gate is not None:
            self._trunk += rpn.gate.layers
        self._hooks: list[ThreadHook] = []

    def __enter__(self) -> TokenLayerCounter:
        for modules, count in ((self._layers, self._decoder), (self._trunk, self._rpn)):
            # Not at the layer: one at which a tap ends the pass is called, too, but does not run.
            self._hooks += [ThreadHook(part(m, "self_attn"), count) for m in modules]
        self._hooks.append(ThreadHook(part(self._layers[0], "self_attn"), self._sequences))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = _hidden(args, kwargs)
        n_tokens = hidden.shape[0] * hidden.shape[1]
        self.token_layers += n_tokens
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self._count_backward(n_tokens))

    def _count_backward(self, n_tokens: int) -> None:
        self.backward_token_layers += n_tokens

    def _sequences(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows, length, _ = _hidden(args, kwargs).shape
        if length > 1:
            self.sequences += rows

    def _rpn(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = _hidden(args, kwargs)
        self.rpn_token_layers += hidden.shape[0] * hidden.shape[1]


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden
