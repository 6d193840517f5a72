"""Which methods a run compares: those that are named, or apply, and one per value of a sweep."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdrpn_bench.configured_method import configured_method
from sdrpn_core.errors import ConfigError
from sdrpn_core.plugins.manager import get_plugins

if TYPE_CHECKING:
    from sdrpn_bench.bench_model import BenchModel
    from sdrpn_bench.data_check import DataFacts
    from sdrpn_bench.method import Method
    from sdrpn_bench.sweep import Sweep

logger = logging.getLogger(__name__)

#: The methods that are compared by default, if the model and the data allow them.
DEFAULT_METHODS = ("baseline", "sdrpn", "attention", "random", "oracle")


def choose_methods(
    names: Sequence[str] | None,
    models: Sequence[BenchModel],
    facts: DataFacts,
    options: Mapping[str, Mapping[str, Any]],
    sweeps: Sequence[Sweep],
) -> dict[str, Method]:
    """The methods of a run, by label.

    Args:
        names: registered names; ``None``: those of ``DEFAULT_METHODS`` that apply.
        models: the models under test.
        facts: what the records have.
        options: of methods, by name.
        sweeps: values of an option of a method, each of which is one more method.

    Raises:
        ConfigError: no method is named, one is named twice, or lacks what it needs or depends on,
            or options or a sweep are for a method that is not compared.
        UnknownNameError: unknown method.
    """
    classes = _applicable(models, facts) if names is None else _named(names, models, facts)
    _warn_of_missing_boxes(classes, facts)
    _check_compared("options for", options, classes)
    _check_compared("a sweep of", (sweep.method for sweep in sweeps), classes)
    chosen: dict[str, Method] = {}
    for name, cls in classes.items():
        own = options.get(name, {})
        chosen[name] = configured_method(name, cls, own)
        for sweep in sweeps:
            if sweep.method == name:
                chosen |= {
                    label: configured_method(name, cls, values)
                    for label, values in sweep.variants(own).items()
                }
    for name, method in chosen.items():
        if method.follows is not None and method.follows not in chosen:
            raise ConfigError(
                f"method {name!r} depends on the answers of {method.follows!r}: name both"
            )
    return chosen


def _applicable(models: Sequence[BenchModel], facts: DataFacts) -> dict[str, type[Method]]:
    classes = {name: get_plugins().methods.get(name) for name in DEFAULT_METHODS}
    return {name: cls for name, cls in classes.items() if _unmet(cls, models, facts) is None}


def _named(
    names: Sequence[str], models: Sequence[BenchModel], facts: DataFacts
) -> dict[str, type[Method]]:
    if not names:
        raise ConfigError("no method is named")
    classes: dict[str, type[Method]] = {}
    for name in names:
        if name in classes:
            raise ConfigError(f"method {name!r} is named twice")
        classes[name] = get_plugins().methods.get(name)
        unmet = _unmet(classes[name], models, facts)
        if unmet is not None:
            raise ConfigError(f"method {name!r} needs {unmet}")
    return classes


def _unmet(method: type[Method], models: Sequence[BenchModel], facts: DataFacts) -> str | None:
    """What a method needs but gets of no model, in words; ``None`` if some can be served."""
    if method.needs_rpn and all(model.rpn is None for model in models):
        named = ", ".join(f"{model.name!r}" for model in models)
        return f"an RPN, but none is given for {named}: use PATH=RPN"
    if method.needs_boxes and not facts.n_with_boxes:
        return "records with boxes, but the data has none"
    return None


def _warn_of_missing_boxes(classes: Mapping[str, type[Method]], facts: DataFacts) -> None:
    for name, cls in classes.items():
        if cls.needs_boxes and facts.n_with_boxes < facts.n:
            logger.warning(
                "method %r runs on the %d of %d records that have boxes",
                name,
                facts.n_with_boxes,
                facts.n,
            )


def _check_compared(what: str, names: Iterable[str], classes: Mapping[str, type[Method]]) -> None:
    for name in sorted(names):
        if name not in classes:
            raise ConfigError(
                f"{what} method {name!r}, which is not compared; compared are: {', '.join(classes)}"
            )
