"""What ``sdrpn train`` can train an RPN for, and which options belong to what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdrpn_core.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from sdrpn_core.labels.judged import RegionTargets
    from sdrpn_core.training.continued import ContinuedObjective

LABELS, GATE, UTILITY = "labels", "gate", "utility"
OBJECTIVES = (LABELS, GATE, UTILITY)

#: Options that not every objective has: those that do.
_OPTIONS = {
    "--lazy": (LABELS,),
    "--n": (LABELS,),
    "--recipe": (LABELS,),
    "--recipe-option": (LABELS,),
    "--branch": (LABELS,),
    "--layers": (LABELS,),
    "--head": (LABELS,),
    "--head-option": (LABELS,),
    "--loss": (LABELS,),
    "--rpn": (GATE, UTILITY),
    "--gate": (GATE,),
    "--gate-option": (GATE,),
    "--margin": (GATE, UTILITY),
    "--indifference": (GATE,),
    "--form": (UTILITY,),
    "--tolerance": (UTILITY,),
    "--temperature": (UTILITY,),
}


def check_objective(objective: str, options: Mapping[str, Any]) -> None:
    """Check that the options which were given belong to the objective.

    Args:
        objective: ``--objective``.
        options: the values of those that not every objective has; empty ones were not given.

    Raises:
        UnknownNameError: no such objective.
        ConfigError: an option of another one, or no RPN to go on from.
    """
    if objective not in OBJECTIVES:
        raise UnknownNameError("objective", objective, OBJECTIVES)
    given = [name for name, value in options.items() if value not in (None, False, [])]
    for name in given:
        if objective not in _OPTIONS[name]:
            raise ConfigError(f"{name} is for --objective {' or '.join(_OPTIONS[name])}")
    if objective != LABELS and "--rpn" not in given:
        raise ConfigError(f"--objective {objective} goes on from a trained RPN: give --rpn")


def gate_objective(
    rpn: str,
    name: str | None,
    options: Mapping[str, Any],
    margin: float | None,
    indifference: float | None,
) -> ContinuedObjective:
    """The objective of a gate.

    Args:
        rpn: ``--rpn``.
        name: ``--gate``.
        options: those of ``--gate-option``.
        margin: ``--margin``.
        indifference: ``--indifference``.

    Raises:
        SdrpnError: no such RPN or gate, or a value is out of range.
    """
    from sdrpn_core.gate.config import GateConfig
    from sdrpn_core.gate.utility_labels import UtilityMargins
    from sdrpn_core.training.gate_objective import GateObjective  # needs torch

    margins = {"margin": margin, "indifference": indifference}
    given = {key: value for key, value in margins.items() if value is not None}
    gate = GateConfig(options=options) if name is None else GateConfig(name, options)
    return GateObjective(rpn, gate, UtilityMargins(**given))


def utility_objective(rpn: str, targets: RegionTargets) -> ContinuedObjective:
    """The objective of refinement.

    Args:
        rpn: ``--rpn``.
        targets: see :func:`map_targets`.

    Raises:
        SdrpnError: no such RPN, or targets that its loss cannot learn.
    """
    from sdrpn_core.training.utility_objective import UtilityObjective  # needs torch

    return UtilityObjective(rpn, targets)


def map_targets(
    form: str | None, margin: float | None, tolerance: float | None, temperature: float | None
) -> RegionTargets:
    """What is made of judged regions.

    Args:
        form: ``--form``.
        margin: ``--margin``.
        tolerance: ``--tolerance``.
        temperature: ``--temperature``.

    Raises:
        UnknownNameError: no such form.
        ConfigError: an option of the other form, or a value out of range.
    """
    from sdrpn_core.labels.judged import BestRegion, region_targets

    options = {"margin": margin, "tolerance": tolerance, "temperature": temperature}
    given = {key: value for key, value in options.items() if value is not None}
    return region_targets(form or BestRegion.name, **given)
