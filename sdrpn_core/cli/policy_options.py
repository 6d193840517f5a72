"""How a command changes the crop policy that an RPN's configuration names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdrpn_core.cli.option_values import parse_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdrpn_core.crops.policy import CropPolicy

__all__ = ["PolicyName", "PolicyOptions", "Threshold", "choose_policy"]

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


def choose_policy(
    name: str,
    options: Mapping[str, Any],
    *,
    chosen: str | None,
    threshold: float | None,
    pairs: list[str] | None,
) -> CropPolicy:
    """The policy to crop by.

    Args:
        name: the policy that the RPN names.
        options: its options; they stay unless another policy is chosen.
        chosen: ``--policy``.
        threshold: ``--threshold``.
        pairs: ``--policy-option``.

    Raises:
        UnknownNameError: no policy of that name.
        ConfigError: an unknown or bad option.
    """
    from sdrpn_core.crops.policy import make_policy  # needs torch

    values = dict(options) if chosen in (None, name) else {}
    if threshold is not None:
        values["threshold"] = threshold
    values.update(parse_options(pairs or [], "--policy-option"))
    return make_policy(chosen or name, values)
