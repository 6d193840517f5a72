"""AttentionTap: softmax rows of chosen layers and heads, under any attention implementation.

transformers returns attention weights only from its eager implementation, and then all of them:
every layer, head, query and key. The tap instead wraps the implementation in use. The wrapper is
handed the post-rotary query and key, computes just the wanted rows in float32, and delegates.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sdrpn_core.backbone.decoder import decoder_layers, part
from sdrpn_core.errors import AttentionError, ConfigError
from sdrpn_core.taps.attention_math import (
    allowed_keys,
    head_products,
    keys_in_window,
    take_columns,
)
from sdrpn_core.taps.key_columns import KeyColumns
from sdrpn_core.taps.tap_arguments import check_heads, check_queries, last_key

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

#: Wrapped implementations are called ``sdrpn_tap|<implementation>``.
_PREFIX = "sdrpn_tap|"


class _OfThisThread(threading.local):
    """The attention modules that the current thread taps: by which tap, and as which layer."""

    def __init__(self) -> None:
        self.tapped: dict[nn.Module, tuple[AttentionTap, int]] = {}


_of_this_thread = _OfThisThread()


@dataclass(frozen=True)
class _Switched:
    """A configuration whose implementation is wrapped, for as long as any thread has a tap open.

    Attributes:
        config: shared by everything that reads its implementation from it.
        base: the implementation without the wrapper.
        taps: those that are open.
    """

    config: Any
    base: str
    taps: set[AttentionTap] = field(default_factory=set)


#: By the id of the configuration, which is not hashable.
_switched: dict[int, _Switched] = {}

#: Held while an implementation is being switched.
_switching = threading.Lock()


@dataclass(frozen=True)
class AttentionRows:
    """Rows of one layer, from one forward call.

    Attributes:
        queries: positions in the sequence of the rows (first, last exclusive).
        weights: ``(batch, heads, queries, keys)`` float32 softmax weights.
    """

    queries: tuple[int, int]
    weights: torch.Tensor


class AttentionTap:
    """Context manager that collects attention rows while the model runs or generates.

    A tap serves the thread that opened it: of passes of other threads, on the same decoder at the
    same time, nothing is collected, and nothing about them changes.

    Args:
        decoder: the language model alone; vision encoders are not touched.
        heads: ``{layer: heads}``; ``None`` in place of the heads means all of them.
        queries: which rows, as positions in the (padded) sequence. ``slice(n, None)`` during
            ``generate()`` on ``n`` prompt tokens collects the rows of the tokens that are fed back.
        keys: ``(batch, n)`` or ``(n,)`` positions of the wanted columns; ``None`` for all. The
            softmax always runs over all keys.
        consume: called with layer and rows as soon as these are computed, which are then not kept:
            all layers can be read without holding more than one of them. Each layer's rows are
            checked before they are handed over.
        differentiable: make :meth:`gradients` possible, for a single layer. The graph begins at
            that layer's attention, so that nothing before it is differentiated. Run the model with
            gradients enabled.

    Attributes:
        rows: ``{layer: [AttentionRows, ...]}``, one entry per forward call that had wanted rows;
            empty with ``consume``.

    Raises:
        ConfigError: not a decoder; a layer or head that it does not have; queries or keys of
            another kind; several layers to differentiate. Keys beyond a sequence are refused when
            it runs, unless they lie on an accelerator, where asking would make it wait.
        AttentionError: a row is NaN or infinite; says which layer. Raised when the block ends:
            asking at each layer and token would make a GPU wait each time.
    """

    def __init__(
        self,
        decoder: PreTrainedModel,
        heads: Mapping[int, Sequence[int] | None],
        *,
        queries: slice = slice(None),
        keys: torch.Tensor | None = None,
        consume: Callable[[int, AttentionRows], None] | None = None,
        differentiable: bool = False,
    ) -> None:
        check_queries(queries)
        check_heads(decoder, heads)
        #: The largest wanted column, if the host knows it.
        self._last_key = -1 if keys is None else last_key(keys)
        if differentiable and len(heads) > 1:
            raise ConfigError(f"only one layer can be differentiated, not {sorted(heads)}")
        self.decoder = decoder
        self.heads = {layer: None if h is None else list(h) for layer, h in heads.items()}
        self.queries = queries
        self.keys = keys
        self.consume = consume
        self.differentiable = differentiable
        self._mixed: tuple[torch.Tensor, torch.Tensor, KeyColumns] | None = None
        self.rows: dict[int, list[AttentionRows]] = defaultdict(list)
        self._tapped: dict[nn.Module, tuple[AttentionTap, int]] = {}
        self._seen: dict[int, int] = {}
        self._hooks: list[RemovableHandle] = []
        self._keys_on: dict[torch.device, torch.Tensor] = {}
        #: Per layer whether all its rows were finite so far, on the layer's device.
        self._finite: dict[int, torch.Tensor] = {}

    def __enter__(self) -> AttentionTap:
        layers = decoder_layers(self.decoder)
        modules = {layer: part(layers[layer], "self_attn") for layer in self.heads}
        tapped = _of_this_thread.tapped
        busy = [layer for layer, module in modules.items() if module in tapped]
        if busy:
            raise RuntimeError(f"layers {busy} are being tapped already")
        _switch_on(self)
        # Kept, as another thread may be the one that closes the tap.
        self._tapped = tapped
        tapped.update((module, (self, layer)) for layer, module in modules.items())
        self._hooks = [
            module.register_forward_pre_hook(self._before, with_kwargs=True)
            for module in modules.values()
        ]
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for module in [module for module, (tap, _) in self._tapped.items() if tap is self]:
            del self._tapped[module]
        for hook in self._hooks:
            hook.remove()
        _switch_off(self)
        finite, self._finite = self._finite, {}
        if exc is None and finite:
            _check_finite(finite)

    def weights(self, layer: int) -> torch.Tensor:
        """All collected rows of a layer, ``(batch, heads, queries, keys)``, in order.

        Only for calls whose key columns agree in number: give ``keys``, or tap a single call.

        Raises:
            ConfigError: the layer is not tapped, no wanted row was run, or the calls had other
                numbers of keys.
        """
        if layer not in self.heads:
            raise ConfigError(f"layer {layer} is not tapped; tapped: {sorted(self.heads)}")
        if not self.rows[layer]:
            raise ConfigError(
                f"no wanted attention row was computed in layer {layer} by the thread that opened "
                "the tap"
            )
        if len({rows.weights.shape[3] for rows in self.rows[layer]}) > 1:
            raise ConfigError(
                f"the calls that layer {layer} was tapped in had different numbers of keys: give "
                "keys= to the tap, or read its rows, one entry per call"
            )
        return torch.cat([rows.weights for rows in self.rows[layer]], dim=2)

    def gradients(self, scalar: torch.Tensor) -> torch.Tensor:
        """Derivatives of a scalar by the rows of the last call, ``(batch, heads, queries, keys)``.

        Attention mixes values: ``output = weights @ values``. So the derivative by a weight is the
        product of the output's gradient and the value, whatever implementation ran, and however
        little of the weights it ever held.

        Args:
            scalar: depends on the output of the decoder; its graph is kept.

        Raises:
            ConfigError: the tap is not ``differentiable``, or no wanted row was run.
        """
        (layer,) = self.heads
        if self._mixed is None or not self.rows[layer]:
            raise ConfigError(
                f"no differentiable attention row was computed in layer {layer}: open the tap with "
                "differentiable=True, and run the model within it"
            )
        output, values, columns = self._mixed
        (gradient,) = torch.autograd.grad(scalar, output, retain_graph=True)
        first, last = self.rows[layer][-1].queries
        rows = gradient[:, first - columns.seen : last - columns.seen].transpose(1, 2)
        products = columns.widen(head_products(rows, values, self.heads[layer]))
        return (
            products if self.keys is None else take_columns(products, self.keys.to(products.device))
        )

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note how long the sequence was before the call: the keys of some caches do not tell."""
        tap, layer = _of_this_thread.tapped.get(module, (None, 0))
        if tap is self:
            # By its type: releases of transformers differ in what the argument is called.
            caches = [one for one in (*args, *kwargs.values()) if isinstance(one, Cache)]
            self._seen[layer] = int(caches[0].get_seq_length(layer)) if caches else 0

    def _columns(self, layer: int, n_queries: int, n_keys: int) -> KeyColumns:
        return KeyColumns(self._seen[layer], n_queries, n_keys)

    def _begin_graph(self, layer: int, output: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """The output ``(batch, queries, heads, d)`` as the beginning of a graph."""
        leaf = output.detach().requires_grad_()
        self._mixed = leaf, values.detach(), self._columns(layer, output.shape[1], values.shape[2])
        return leaf

    def _collect(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None,
        sliding_window: int | None,
        softcap: float | None,
    ) -> None:
        columns = self._columns(layer, query.shape[2], key.shape[2])
        start, stop, _ = self.queries.indices(columns.total)
        first, last = (max(place, columns.seen) - columns.seen for place in (start, stop))
        if first >= last:
            return
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        scores = head_products(query[:, :, first:last], key, self.heads[layer]) * scale
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        place = range(columns.of_first_query + first, columns.of_first_query + last)
        allowed = allowed_keys(attention_mask, first, place, columns.n_keys, scores.device)
        if sliding_window is not None and (attention_mask is None or attention_mask.ndim == 2):
            allowed = allowed & keys_in_window(place, columns.n_keys, sliding_window, scores.device)
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        weights = columns.widen(scores.softmax(dim=-1))
        if self.keys is not None:
            self._check_columns(*weights.shape[::3])
            weights = take_columns(weights, self._on(weights.device, self.keys))
        finite = torch.isfinite(weights).all()
        collected = AttentionRows((first + columns.seen, last + columns.seen), weights)
        if self.consume is None:
            before = self._finite.get(layer)
            self._finite[layer] = finite if before is None else before & finite
            self.rows[layer].append(collected)
        else:
            _check_finite({layer: finite})
            self.consume(layer, collected)

    def _check_columns(self, n_rows: int, n_keys: int) -> None:
        """Refuse wanted columns that a call's weights lack, before a GPU fails on them."""
        keys = self.keys
        if self._last_key >= n_keys:
            raise ConfigError(
                f"no key {self._last_key}: the sequence has keys 0 to {n_keys - 1}, padding "
                "included"
            )
        if keys is not None and keys.ndim == 2 and len(keys) != n_rows:
            raise ConfigError(f"keys are given for {len(keys)} sequences, and {n_rows} were run")

    def _on(self, device: torch.device, keys: torch.Tensor) -> torch.Tensor:
        """The wanted columns, copied to each device once and not at every token."""
        if device not in self._keys_on:
            self._keys_on[device] = keys.to(device)
        return self._keys_on[device]


def _check_finite(layers: Mapping[int, torch.Tensor]) -> None:
    """Raise where a layer's flag is False; reads all flags in one copy to the host."""
    device = next(iter(layers.values())).device
    flags = torch.stack([flag.to(device) for flag in layers.values()]).tolist()
    broken = [layer for layer, is_finite in zip(layers, flags, strict=True) if not is_finite]
    if broken:
        raise AttentionError(
            f"attention of layer {min(broken)} is NaN or infinite: the model or its input is broken"
        )


def attention_implementation(config: Any) -> str:
    """The implementation that a configuration names, whether or not it is being tapped."""
    name: str = config._attn_implementation
    return name.removeprefix(_PREFIX)


def _switch_on(tap: AttentionTap) -> None:
    """Wrap the implementation, unless another tap has done so: the wrapper serves all threads."""
    decoder = tap.decoder
    config = decoder.config
    with _switching:
        switched = _switched.get(id(config))
        if switched is None:
            switched = _Switched(config, attention_implementation(config))
            decoder.set_attn_implementation(_wrapped(switched.base))
            _switched[id(config)] = switched
        switched.taps.add(tap)


def _switch_off(tap: AttentionTap) -> None:
    """Put the implementation back if no other tap is open."""
    decoder = tap.decoder
    with _switching:
        switched = _switched[id(decoder.config)]
        switched.taps.discard(tap)
        if not switched.taps:
            del _switched[id(decoder.config)]
            decoder.set_attn_implementation(switched.base)


def _wrapped(base: str) -> str:
    """Register the wrapper of an implementation, with the same mask function, and name it."""
    name = _PREFIX + base
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        AttentionInterface.register(name, _make_wrapper(base))
        # Without a mask function of that name the model would silently run unmasked.
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def _make_wrapper(base: str) -> Callable[..., Any]:
    def attention(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> Any:
        tapped = _of_this_thread.tapped.get(module)
        if tapped is not None:
            tap, layer = tapped
            with torch.no_grad():
                tap._collect(
                    layer,
                    query,
                    key,
                    attention_mask,
                    kwargs.get("scaling"),
                    kwargs.get("sliding_window"),
                    kwargs.get("softcap"),
                )
        result = _implementation(base, module)(module, query, key, value, attention_mask, **kwargs)
        if tapped is not None and tapped[0].differentiable:
            return tapped[0]._begin_graph(tapped[1], result[0], value), *result[1:]
        return result

    return attention


def _implementation(base: str, module: nn.Module) -> Callable[..., Any]:
    if base == "eager":
        # Eager attention is not in the interface: each modeling file has its own.
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[base]
