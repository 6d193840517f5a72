"""Compare two runs question by question: other models, other methods, or other settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdrpn_bench.item_store import Row
from sdrpn_bench.paired_results import PairedResults, pair_results
from sdrpn_bench.stored_run import StoredRun
from sdrpn_core.errors import ConfigError, InputError, UnknownNameError

__all__ = ["Comparison", "RunComparison", "compare_runs", "parse_method_pairs"]

Pair = tuple[str, str]
"""A name in the first run, and the one that it is compared with in the second."""

#: What makes two records the same one. (Older runs do not say which images they showed.)
_SAME = ("question", "answers", "images")

#: Settings that may explain a difference, besides the options of methods and what models are.
_SHARED = ("seed", "batch_size", "max_new_tokens", "max_pixels", "load_options")


@dataclass(frozen=True)
class Comparison:
    """One method of one model, in both runs.

    Attributes:
        model: its label in either run.
        method: its name in either run.
        results: on the questions that both answered; the first run is the reference.
    """

    model: Pair
    method: Pair
    results: PairedResults


@dataclass(frozen=True)
class RunComparison:
    """What two runs have in common, and how they differ.

    Attributes:
        folders: of the runs.
        metric: by which both were scored.
        settings: by name what either run has, where they differ; also versions and hardware.
        comparisons: per model and method.
    """

    folders: Pair
    metric: str
    settings: Mapping[str, tuple[Any, Any]]
    comparisons: Sequence[Comparison]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``a`` and ``b`` are the runs."""
        return {
            "runs": _ab(self.folders),
            "metric": self.metric,
            "settings": {name: _ab(values) for name, values in self.settings.items()},
            "comparisons": [
                {
                    "model": _ab(one.model),
                    "method": _ab(one.method),
                    "n": one.results.n,
                    "accuracy": _ab((one.results.reference, one.results.accuracy)),
                    "difference": one.results.difference.to_dict(),
                    "token_layers_ratio": one.results.token_layers_ratio,
                }
                for one in self.comparisons
            ],
        }


def parse_method_pairs(text: str) -> list[Pair]:
    """Read ``baseline,sdrpn:attention``: a name for both runs, or one for each.

    Raises:
        ConfigError: another form.
    """
    pairs = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        first, colon, second = (part.strip() for part in word.partition(":"))
        if not first or (colon and not second):
            raise ConfigError(f"--methods {word!r}: write METHOD, or METHOD_OF_A:METHOD_OF_B")
        pairs.append((first, second or first))
    return pairs


def compare_runs(
    run_a: str | Path, run_b: str | Path, methods: Sequence[Pair] = ()
) -> RunComparison:
    """Compare what two runs answered to the same questions, which are matched by record id.

    Models are matched by name; where each run has a single one, these two are compared.

    Args:
        run_a: folder that ``sdrpn bench`` wrote: the reference.
        run_b: another one, or the same to compare two of its methods.
        methods: names in either run; default: all that both have.

    Raises:
        ConfigError: not a run, other metrics, or neither a model nor a method in both.
        InputError: no question in common, or records of one id that are different questions.
        UnknownNameError: a run has no such method.
    """
    a, b = StoredRun.read(run_a), StoredRun.read(run_b)
    if a.settings.metric != b.settings.metric:
        raise ConfigError(
            f"the runs are scored by different metrics: {_metric(a)} in {a.folder}, {_metric(b)} "
            f"in {b.folder}"
        )
    models = _models(a, b)
    pairs = _methods(a, b, methods)
    found = [
        Comparison(model, method, results)
        for model in models
        for method, results in _compared(_matched(a, b, model), pairs)
    ]
    if not found:
        raise InputError(f"{a.folder} and {b.folder} have no answer of these methods in common")
    settings = dict(_differing(a, b, models, pairs))
    return RunComparison((str(a.folder), str(b.folder)), _metric(a), settings, found)


def _models(a: StoredRun, b: StoredRun) -> list[Pair]:
    ours, theirs = list(a.settings.models), list(b.settings.models)
    both = [(name, name) for name in ours if name in theirs]
    if not both and len(ours) == len(theirs) == 1:
        both = [(ours[0], theirs[0])]
    if not both:
        raise ConfigError(
            f"no model is in both runs: {a.folder} has {', '.join(ours)}; {b.folder} has "
            f"{', '.join(theirs)}"
        )
    return both


def _methods(a: StoredRun, b: StoredRun, chosen: Sequence[Pair]) -> list[Pair]:
    ours, theirs = a.settings.methods, b.settings.methods
    for pair in chosen:
        for name, known, run in zip(pair, (ours, theirs), (a, b), strict=True):
            if name not in known:
                raise UnknownNameError("method", name, known, where=f"in {run.folder}")
    pairs = list(chosen) or [(name, name) for name in ours if name in theirs]
    if not pairs:
        raise ConfigError(
            f"no method is in both runs: {a.folder} has {', '.join(ours)}; {b.folder} has "
            f"{', '.join(theirs)}; --methods METHOD_OF_A:METHOD_OF_B compares two of them"
        )
    return pairs


def _matched(a: StoredRun, b: StoredRun, model: Pair) -> list[tuple[Row, Row]]:
    """The methods' results of the questions that a model was asked in both runs.

    Raises:
        InputError: there are none, or one id stands for two questions.
    """
    ours, theirs = a.scored[model[0]], b.scored[model[1]]
    both = [(row, theirs[key]) for key, row in ours.items() if key in theirs]
    if not both:
        raise InputError(
            f"{a.folder} and {b.folder} have no question in common, by the ids of their records: "
            "compare runs on the same data"
        )
    for one, other in both:
        # Row numbers are ids, too: those of other data would match by chance.
        known = [key for key in _SAME if key in one and key in other]
        unequal = [key for key in known if one[key] != other[key]]
        if unequal:
            raise InputError(
                f"record {one['id']!r} is not the same in {a.folder} and {b.folder} (other "
                f"{unequal[0]}): compare runs on the same data"
            )
    return [(one["methods"], other["methods"]) for one, other in both]


def _compared(
    matched: Sequence[tuple[Row, Row]], methods: Sequence[Pair]
) -> Iterator[tuple[Pair, PairedResults]]:
    for first, second in methods:
        served = [(b[second], a[first]) for a, b in matched if first in a and second in b]
        if served:
            yield (first, second), pair_results(*zip(*served, strict=True))


def _differing(
    a: StoredRun, b: StoredRun, models: Sequence[Pair], methods: Sequence[Pair]
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Settings and versions that the runs do not share, of what is compared."""
    for name in _SHARED:
        yield from _unequal(name, getattr(a.settings, name), getattr(b.settings, name))
    if a.environment and b.environment:  # a run that is not finished does not say
        yield from _unequal("environment", a.environment, b.environment)
    for first, second in models:
        yield from _unequal(f"models.{first}", a.settings.models[first], b.settings.models[second])
    for first, second in methods:
        if first == second:
            yield from _unequal(
                f"methods.{first}", a.settings.methods[first], b.settings.methods[second]
            )


def _unequal(name: str, ours: Any, theirs: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in dict.fromkeys((*ours, *theirs)):
            yield from _unequal(f"{name}.{key}", ours.get(key), theirs.get(key))
    elif ours != theirs:
        yield name, (ours, theirs)


def _metric(run: StoredRun) -> str:
    options = run.settings.metric.get("options") or {}
    listed = ", ".join(f"{key} = {value}" for key, value in options.items())
    return f"{run.settings.metric.get('name')}" + (f" ({listed})" if listed else "")


def _ab(values: tuple[Any, Any]) -> dict[str, Any]:
    return dict(zip(("a", "b"), values, strict=True))
