"""How a command changes the crop policy that an RPN names, and the look before it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sdrpn_core.answering.confidence_threshold import check_confidence_threshold
from sdrpn_core.cli.option_values import parse_options
from sdrpn_core.gate.config import check_threshold

__all__ = [
    "ConfidenceThreshold",
    "FirstLookTokens",
    "GateThreshold",
    "PolicyName",
    "PolicyOptions",
    "Threshold",
    "policy_changes",
]

PolicyName = Annotated[
    str | None,
    typer.Option(
        "--policy", help="Crop policy: bbox, mask, or that of a plugin; default: the RPN's."
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Threshold of the crop policy; default: the RPN's."),
]
PolicyOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--policy-option", metavar="KEY=VALUE", help="Set another option of the policy; repeatable."
    ),
]

FirstLookTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Encode each whole image with at most N visual tokens (dynamic resolution only); "
        "crops are cut from the image as it is.",
    ),
]


def _checked(value: float | None) -> float | None:
    if value is not None:
        check_confidence_threshold(value)
    return value


ConfidenceThreshold = Annotated[
    float | None,
    typer.Option(
        callback=_checked,
        help="Answer plainly first, and look closer only where a token of that answer is less "
        "likely than this (0 to 1); default: always look.",
    ),
]


def _checked_gate(value: float | None) -> float | None:
    if value is not None:
        check_threshold(value)
    return value


GateThreshold = Annotated[
    float | None,
    typer.Option(
        callback=_checked_gate,
        help="Look closer only where the RPN's gate gives at least this probability (0 to 1); "
        "0: always look; default: the gate's own.",
    ),
]


def policy_changes(threshold: float | None, pairs: list[str] | None) -> dict[str, Any]:
    """The options of the policy that the command line replaces.

    Args:
        threshold: ``--threshold``.
        pairs: ``--policy-option``.

    Raises:
        ConfigError: a pair is none.
    """
    given = {} if threshold is None else {"threshold": threshold}
    return {**given, **parse_options(pairs or [], "--policy-option")}
