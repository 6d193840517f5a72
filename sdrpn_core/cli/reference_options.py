"""Options that say what a crop is judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from sdrpn_core.utility.reference import Reference

_KINDS = ("own", "answer")

ReferenceName = Annotated[
    str,
    typer.Option(
        metavar="own|answer",
        help="Judge by the model's own response (or the one given), or by the known answer.",
    ),
]
ReferenceTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Visual tokens per image for the model's own responses; default: its answers "
        "with the RPN's crop.",
    ),
]


def make_reference(name: str, tokens: int | None, max_new_tokens: int) -> Reference:
    """What crops are judged by.

    Args:
        name: ``--reference``.
        tokens: ``--reference-tokens``.
        max_new_tokens: of the model's own responses.

    Raises:
        ConfigError: an unknown name, or visual tokens for known answers.
    """
    if name not in _KINDS:
        raise ConfigError(f"--reference must be {' or '.join(_KINDS)}, not {name!r}")
    from sdrpn_core.utility.reference import Reference, ReferenceKind  # needs torch

    return Reference(ReferenceKind(name), tokens, max_new_tokens)
