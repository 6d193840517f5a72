"""Names of the models of a run: short, and no two alike."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from sdrpn_bench.bench_model import BenchModel
from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.model import RPN

__all__ = ["with_names"]

_NO_RPN = "no RPN"


def with_names(models: Sequence[BenchModel]) -> list[BenchModel]:
    """Give the models distinct labels, which follow from how all of them are given.

    A model has its own name, else that of its folder. Where several folders, or RPNs, would then
    have one name, the RPN's is added, and the folder's is longer: ``llava + rpn`` and
    ``llava + no RPN``; ``llava + one/rpn`` and ``llava + two/rpn``; ``old/llava`` and
    ``new/llava``.

    Raises:
        ConfigError: no models, one that is given twice, or two of the same name and budget.
    """
    if not models:
        raise ConfigError("give at least one model")
    alike: dict[str, list[_Source]] = {}
    for model in models:
        alike.setdefault(_short(model), []).append(_source(model))
    names = {short: _names(short, sources) for short, sources in alike.items()}
    named = [
        model
        if model.name is not None
        else replace(model, name=names[_short(model)][_source(model)])
        for model in models
    ]
    _check_distinct(named)
    return named


_Source = tuple[Path, Path | None]
"""Where a backbone and its RPN come from; paths, so that ``rpn`` and ``./rpn`` are one."""


def _source(model: BenchModel) -> _Source:
    rpn = model.rpn_origin
    return Path(model.origin), None if rpn is None else Path(rpn)


def _short(model: BenchModel) -> str:
    return model.name or Path(model.origin).name


def _names(short: str, models: Sequence[_Source]) -> dict[_Source, str]:
    """Names of models whose short names are the same."""
    sources = list(dict.fromkeys(models))
    if len(sources) == 1:
        return {sources[0]: short}
    folders = _endings({folder for folder, _ in sources})
    rpns = _endings({rpn for _, rpn in sources if rpn is not None})
    behind = {
        source: f" + {_NO_RPN if source[1] is None else rpns[source[1]]}" for source in sources
    }
    if len(set(behind.values())) == len(sources):
        return {source: short + behind[source] for source in sources}
    if len(folders) == len(sources):
        return {source: folders[source[0]] for source in sources}
    return {source: folders[source[0]] + behind[source] for source in sources}


def _endings(paths: Collection[Path]) -> dict[Path, str]:
    """As many parts of the ends of the paths, for all the same number, as tell them apart."""
    n_parts = 1
    while True:
        found = {path: Path(*path.parts[-n_parts:]).as_posix() for path in paths}
        if len(set(found.values())) == len(paths):
            return found
        n_parts += 1


def _check_distinct(models: Sequence[BenchModel]) -> None:
    earlier: dict[str, BenchModel] = {}
    for model in models:
        other = earlier.get(model.label)
        if other is None:
            earlier[model.label] = model
            continue
        loaded = isinstance(model.source, Backbone) or isinstance(model.rpn, RPN)
        if not loaded and _source(other) == _source(model):
            how = "without an RPN" if model.rpn is None else f"with the RPN {model.rpn_origin}"
            raise ConfigError(f"model {model.origin} is given twice {how}: leave one out")
        raise ConfigError(
            f"two models are called {model.label!r}: give one another name, "
            "BenchModel(..., name=...)"
        )
