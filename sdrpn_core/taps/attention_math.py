"""Arithmetic of attention rows: products, what a row may attend to, and choice of columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def head_products(
    query: torch.Tensor, key: torch.Tensor, heads: Sequence[int] | None
) -> torch.Tensor:
    """``(batch, heads, queries, keys)`` float32 of the chosen heads, or of all.

    Never are all keys copied in single precision: they are all there is of the past, at each token.
    Those of one key head at a time are.

    Args:
        query: ``(batch, heads, queries, d)``.
        key: ``(batch, key heads, keys, d)``; each serves a group of heads.
        heads: ``None`` for all.
    """
    group = query.shape[1] // key.shape[1]
    if heads is None:
        # The heads of a group are so many more queries of its key head.
        rows = query.unflatten(1, (-1, group)).flatten(2, 3).float()
        if key.dtype == torch.float32:
            products = rows @ key.transpose(2, 3)
        else:
            one_by_one = zip(rows.unbind(1), key.unbind(1), strict=True)
            products = torch.stack([r @ k.float().transpose(1, 2) for r, k in one_by_one], dim=1)
        return products.unflatten(2, (group, -1)).flatten(1, 2)
    pairs = [(query[:, head].float(), key[:, head // group].float()) for head in heads]
    return torch.stack([rows @ columns.transpose(1, 2) for rows, columns in pairs], dim=1)


def allowed_keys(
    mask: torch.Tensor | None, first: int, places: range, n_keys: int, device: torch.device
) -> torch.Tensor:
    """Bool, broadcastable to ``(batch, heads, rows, keys)``: what each wanted row may attend to.

    Args:
        mask: as the implementation gets it.
        first: the first wanted row of the call.
        places: of the wanted rows among the keys.
        n_keys: keys of the call.
        device: of the result.
    """
    if mask is not None and mask.ndim == 4:
        rows = mask[:, :, first : first + len(places), :n_keys]
        return rows if rows.dtype == torch.bool else rows > torch.finfo(rows.dtype).min / 2
    keys, queries = torch.arange(n_keys, device=device), _arange(places, device)
    causal = (keys[None, :] <= queries[:, None])[None, None]
    if mask is None:
        return causal
    return causal & mask[:, None, None, :n_keys].bool()


def keys_in_window(places: range, n_keys: int, window: int, device: torch.device) -> torch.Tensor:
    """Bool ``(1, 1, rows, keys)``: which keys are no further back than a sliding window reaches.

    Args:
        places: of the wanted rows among the keys.
        n_keys: keys of the call.
        window: its length, the row's own key included.
        device: of the result.
    """
    keys, queries = torch.arange(n_keys, device=device), _arange(places, device)
    return (keys[None, :] > queries[:, None] - window)[None, None]


def take_columns(weights: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """The wanted columns ``(batch, heads, queries, n)`` of weights.

    Args:
        weights: ``(batch, heads, queries, keys)``.
        keys: positions, ``(n,)``, or ``(batch, n)`` for each sequence its own.
    """
    if keys.ndim == 1:
        return weights[..., keys]
    index = keys[:, None, None, :].expand(-1, weights.shape[1], weights.shape[2], -1)
    return weights.gather(3, index)


def _arange(places: range, device: torch.device) -> torch.Tensor:
    return torch.arange(places.start, places.stop, device=device)
