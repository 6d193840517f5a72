"""What an attention tap is asked for, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from sdrpn_core.backbone.decoder import decoder_layers
from sdrpn_core.errors import ConfigError
from sdrpn_core.util.whole_numbers import is_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_heads(decoder: PreTrainedModel, heads: Mapping[int, Sequence[int] | None]) -> None:
    """Check which layers and heads are wanted.

    Args:
        decoder: the language model.
        heads: ``{layer: heads}``; ``None`` in place of the heads means all of them.

    Raises:
        ConfigError: another kind, no layer, or a layer or head that the decoder does not have.
    """
    n_layers, n_heads = len(decoder_layers(decoder)), decoder.config.num_attention_heads
    if not isinstance(heads, Mapping):
        raise ConfigError(
            f"heads must be a mapping, such as {{2: [0, 3], 5: None}} (None: all of a layer), not "
            f"{heads!r}"
        )
    if not heads:
        raise ConfigError("no layer to tap")
    for layer, chosen in heads.items():
        if not is_whole(layer):
            raise ConfigError(f"layers to tap are whole numbers, not {layer!r}")
        if chosen is not None and not _is_list_of_heads(chosen):
            raise ConfigError(
                f"the heads of layer {layer} must be a list of one or more whole numbers, or None "
                f"for all, not {chosen!r}"
            )
        if not 0 <= layer < n_layers:
            raise ConfigError(
                f"no layer {layer} to tap: the decoder has layers 0 to {n_layers - 1}"
            )
        for head in chosen or ():
            if not 0 <= head < n_heads:
                raise ConfigError(
                    f"layer {layer} has no head {head}: its heads are 0 to {n_heads - 1}"
                )


def _is_list_of_heads(chosen: object) -> bool:
    if not isinstance(chosen, Sequence) or isinstance(chosen, str):
        return False
    return len(chosen) > 0 and all(map(is_whole, chosen))


def check_queries(queries: object) -> None:
    """Check which rows are wanted.

    Args:
        queries: what was given as a slice of positions.

    Raises:
        ConfigError: it is no contiguous slice.
    """
    if not isinstance(queries, slice) or queries.step not in (None, 1):
        raise ConfigError(
            f"queries must be a contiguous slice, such as slice(-1, None), not {queries!r}"
        )


def last_key(keys: object) -> int:
    """Check which columns are wanted, and find the largest.

    Args:
        keys: what was given as positions.

    Returns:
        The largest position; -1 if only an accelerator knows, or there is none.

    Raises:
        ConfigError: another kind, or one below 0.
    """
    if (
        not isinstance(keys, torch.Tensor)
        or keys.dtype not in (torch.int64, torch.int32)
        or keys.ndim not in (1, 2)
    ):
        raise ConfigError(
            "keys must be a tensor of whole numbers, (n,) or (batch, n), such as "
            f"torch.tensor([1, 2]), not {keys!r}"
        )
    if keys.device.type != "cpu" or not keys.numel():
        return -1
    if int(keys.min()) < 0:
        raise ConfigError(f"keys count from 0, and one is {int(keys.min())}")
    return int(keys.max())
