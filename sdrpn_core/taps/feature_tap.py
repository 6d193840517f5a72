"""FeatureTap: the hidden states at the branch layer, and an early stop there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.backbone.decoder import decoder_layers, layer_kinds
from sdrpn_core.errors import ConfigError
from sdrpn_core.runtime.kv_cache import CACHE_NAME
from sdrpn_core.taps.thread_hooks import ThreadHook
from sdrpn_core.util.whole_numbers import is_whole

if TYPE_CHECKING:
    from torch import nn


class _BranchReached(Exception):
    """Raised inside the decoder to end a forward pass at the branch layer; never leaves the tap."""


@dataclass(frozen=True)
class Features:
    """What the branch layer was called with.

    Attributes:
        hidden: ``(batch, length, hidden)`` hidden states that leave layer B - 1.
        layer_kwargs: keyword arguments of the layer call (attention mask, position embeddings,
            positions ...), so that copies of the layer run on ``hidden`` as the decoder's own. The
            decoder's cache is left out: copies have their own, and features that are kept would
            keep the keys and values of all layers.
        following: the same of the layers behind the branch layer, in order. These need not have
            run: layers of one kind are called alike. ``None`` for a kind of which no layer has
            been reached; empty where all layers are of the branch layer's kind.
    """

    hidden: torch.Tensor
    layer_kwargs: dict[str, Any] = field(repr=False)
    following: Sequence[Mapping[str, Any] | None] = field(default=(), repr=False)

    def kwargs_of(self, offset: int) -> Mapping[str, Any]:
        """What layer B + ``offset`` is called with.

        Raises:
            ConfigError: no layer of its kind has been reached.
        """
        if offset == 0 or not self.following:
            return self.layer_kwargs
        kwargs = self.following[offset - 1]
        if kwargs is None:
            raise ConfigError(
                f"the layer {offset} behind the branch layer is of a kind that does not occur up "
                "to the branch layer: branch off deeper"
            )
        return kwargs

    @property
    def nbytes(self) -> int:
        """Memory of the tensors; what several arguments share counts once."""
        calls = [self.layer_kwargs, *(each for each in self.following if each is not None)]
        tensors = [self.hidden, *(one for call in calls for one in _tensors(tuple(call.values())))]
        storages = [tensor.untyped_storage() for tensor in tensors]
        return sum({one.data_ptr(): one.nbytes() for one in storages}.values())

    def rows(self, rows: Sequence[int]) -> Features:
        """The features of some rows of the batch, in this order; padding stays.

        Args:
            rows: their numbers.
        """
        if list(rows) == list(range(len(self.hidden))):
            return self
        index = torch.tensor(rows, device=self.hidden.device)
        return Features(
            self.hidden[index],
            _rows_of_all(self.layer_kwargs, index),
            tuple(None if one is None else _rows_of_all(one, index) for one in self.following),
        )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors among arguments, and in tuples among them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _tensors(part)


def _without(kwargs: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in names}


def _rows_of_all(kwargs: Mapping[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """A layer's arguments for some rows of the batch."""
    return {
        # Positions may have axes in front of the batch (time, height, width).
        name: _rows_of(value, rows, -2 if name == "position_ids" else 0)
        for name, value in kwargs.items()
    }


def _rows_of(value: Any, rows: torch.Tensor, batch_axis: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_rows_of(part, rows, batch_axis) for part in value)
    # What has one axis, such as places in a cache, or one row, is shared by the batch.
    if not isinstance(value, torch.Tensor) or value.ndim < 2 or value.shape[batch_axis] == 1:
        return value
    return value.index_select(batch_axis, rows.to(value.device))


class FeatureTap:
    """Context manager that records the input of a decoder layer, and can end the pass there.

    The tap is a forward pre-hook: with ``stop=True`` it raises an internal exception that
    :meth:`run` catches, so the layers from ``layer`` on are never computed. Changing
    ``num_hidden_layers`` instead would not be portable: some decoders loop over all layers
    whatever the config says.

    A tap serves the thread that opened it: passes of other threads, on the same decoder at the same
    time, are neither recorded nor ended.

    Where layers are of several kinds (sliding and full attention), each kind has a mask and rotary
    embeddings of its own. What the layers behind the branch layer would be called with is then
    taken from the last layer of their kind before it.

    Args:
        decoder: a decoder with a ``layers`` list.
        layer: B; 0 <= B < L.
        stop: end the pass at the tap.

    Raises:
        ConfigError: not a decoder, or no such layer.

    Example:
        >>> with FeatureTap(backbone.decoder, layer=2) as tap:  # doctest: +SKIP
        ...     features = tap.run(inputs_embeds=embeds, attention_mask=mask)
    """

    def __init__(self, decoder: nn.Module, layer: int, *, stop: bool = True) -> None:
        n_layers = len(decoder_layers(decoder))
        if not is_whole(layer):
            raise ConfigError(f"the branch layer must be a whole number, not {layer!r}")
        layer = int(layer)
        if not 0 <= layer < n_layers:
            raise ConfigError(
                f"branch layer {layer} is out of range: the decoder has layers 0 to {n_layers - 1}"
            )
        self.decoder = decoder
        self.layer = layer
        self.stop = stop
        kinds = layer_kinds(decoder)
        self._following = kinds[layer + 1 :] if len(set(kinds[layer:])) > 1 else []
        #: Kind -> the last layer of it up to the branch layer.
        self._sources = {
            kind: index for index, kind in enumerate(kinds[: layer + 1]) if kind in self._following
        }
        self._hooks: list[ThreadHook] = []
        self._by_kind: dict[str, Mapping[str, Any]] = {}
        self._recorded: list[Features] = []

    def __enter__(self) -> FeatureTap:
        layers = decoder_layers(self.decoder)
        self._hooks = [
            ThreadHook(layers[index], partial(self._record_kind, kind))
            for kind, index in self._sources.items()
        ]
        # The last hook: where the branch layer is a source as well, it may end the pass.
        self._hooks.append(ThreadHook(layers[self.layer], self._record))
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
        self._by_kind.clear()
        self._recorded.clear()

    def run(self, **inputs: Any) -> Features:
        """Run the decoder on ``inputs`` and return what reached the branch layer.

        Raises:
            RuntimeError: outside the ``with`` block, in another thread than the one that opened the
                tap, or the pass ended before the branch layer.
        """
        if not self._hooks:
            raise RuntimeError("use the tap as a context manager: with FeatureTap(...) as tap")
        if not self._hooks[-1].is_of_this_thread:
            raise RuntimeError("the tap serves the thread that opened it: open one in this thread")
        self._by_kind.clear()
        self._recorded.clear()
        with suppress(_BranchReached):
            self.decoder(**inputs)
        if not self._recorded:
            raise RuntimeError(f"the decoder never called layer {self.layer}")
        return self._recorded.pop()

    def take(self) -> Features:
        """What reached the branch layer first, in a pass that somebody else ran; ends the tapping.

        Raises:
            RuntimeError: nothing did.
        """
        if not self._recorded:
            raise RuntimeError(f"no pass has reached layer {self.layer}")
        first = self._recorded[0]
        self.__exit__(None, None, None)
        return first

    def _record_kind(
        self, kind: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._by_kind[kind] = _without(kwargs, "hidden_states", CACHE_NAME)

    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        own = _without(kwargs, "hidden_states", CACHE_NAME)
        following = tuple(self._by_kind.get(kind) for kind in self._following)
        self._recorded.append(Features(hidden, own, following))
        if self.stop:
            raise _BranchReached
