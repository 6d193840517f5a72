"""What one process answers of a run, batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdrpn_bench.bench_model import fingerprint
from sdrpn_bench.item_store import Row
from sdrpn_bench.measure import OpenedItem, measure, open_items
from sdrpn_bench.method import Method, MethodContext
from sdrpn_bench.run_config import CONFIG
from sdrpn_core.errors import ConfigError
from sdrpn_core.util.prefetch import prefetched

if TYPE_CHECKING:
    from accelerate import PartialState

    from sdrpn_bench.bench_model import BenchModel
    from sdrpn_bench.preparation import Run
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.preset import Preset
    from sdrpn_core.rpn.model import RPN

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with a model's name, and the number of this process's items: finished, and in total."""


@dataclass(frozen=True)
class Share:
    """What one process has to do for a model.

    Attributes:
        run: the run.
        model: the model.
        own: rows of the model that were done before, by all processes.
        pending: indices of the records that this process is to answer.
    """

    run: Run
    model: BenchModel
    own: Sequence[Row]
    pending: Sequence[int]

    @classmethod
    def of(cls, run: Run, model: BenchModel, done: Sequence[Row], state: PartialState) -> Share:
        """This process's share of what is unfinished."""
        own = [row for row in done if row["model"] == model.label]
        finished = {row["index"] for row in own}
        pending = [i for i in range(len(run.records)) if i not in finished]
        return cls(run, model, own, pending[state.process_index :: state.num_processes])


def answer_share(
    share: Share, backbone: Backbone, rpn: RPN | None, progress: Progress | None, *, alone: bool
) -> None:
    """Answer what is pending of a share, and store it after every batch.

    Args:
        share: what to answer.
        backbone: the share's model, loaded.
        rpn: its RPN, if it has one.
        progress: called after every batch.
        alone: whether the run is the only one; else its data are named as well.

    Raises:
        ConfigError: the run holds results of other weights, or no method can be offered.
    """
    run, model, mine = share.run, share.model, share.pending
    current = fingerprint(backbone, rpn)
    if any(row["fingerprint"] != current for row in share.own):
        raise ConfigError(
            f"{run.store.folder} holds results of other weights of model {model.label!r}: "
            f"{CONFIG.remedy}"
        )
    context = MethodContext(backbone, rpn, run.seed, run.max_new_tokens)
    preset = backbone.find_preset()
    methods = _tuned(run, context, preset)
    run.loaded[model.label] = {
        "preset": None if preset is None else preset.name,
        "published_options": {
            name: _changes(run.methods[name], method)
            for name, method in methods.items()
            if method != run.methods[name]
        },
    }
    refused = _refused(methods, context)
    if len(refused) == len(methods):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ConfigError(f"no method can be offered for model {model.label!r}: {reasons}")
    for name, reason in refused.items():
        logger.warning("model %r: method %r is left out: %s", model.label, name, reason)
        del methods[name]
    marks = {"refused": refused} if refused else {}
    label = model.label if alone else f"{model.label}, {run.records.name}"

    def batches() -> Iterator[tuple[list[OpenedItem], list[dict[str, Any]]]]:
        for batch in _chunks(mine, run.batch_size):
            items = [(index, run.records[index]) for index in batch]
            yield open_items(backbone, items, run.metric, run.max_pixels)

    # On a CPU, opening the next images would take time from the methods that are being measured.
    on_cpu = backbone.device.type == "cpu"
    for number, (opened, rows) in enumerate(batches() if on_cpu else prefetched(batches(), 1)):
        if opened:
            if number == 0:  # the first pass includes one-time setup, which is no method's cost
                measure(context, methods, opened[:1], run.metric)
            rows += measure(context, methods, opened, run.metric, first=number)
        run.store.append(
            {"model": model.label, "fingerprint": current, **marks, **row} for row in rows
        )
        if progress is not None:
            progress(label, min((number + 1) * run.batch_size, len(mine)), len(mine))


def _refused(methods: Mapping[str, Method], context: MethodContext) -> dict[str, str]:
    """The methods that cannot be offered for a model, and why."""
    reasons = {
        name: "it needs an RPN: name the model as PATH=RPN"
        if method.needs_rpn and context.rpn is None
        else method.unserved(context)
        for name, method in methods.items()
    }
    found = {name: reason for name, reason in reasons.items() if reason is not None}
    for name, method in methods.items():
        if method.follows in found:
            found.setdefault(name, f"it depends on the answers of {method.follows!r}")
    return found


def _tuned(run: Run, context: MethodContext, preset: Preset | None) -> dict[str, Method]:
    """The methods with the threshold that was published for the model and the dataset, if any."""
    published = run.published.get("" if preset is None else preset.name)
    if published is None or published.threshold is None:
        return dict(run.methods)
    return {name: one.tuned(published.threshold, context) for name, one in run.methods.items()}


def _chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _changes(asked: Method, tuned: Method) -> dict[str, Any]:
    """The options in which a tuned method differs from the one that was asked for."""
    before = asked.options()
    return {key: value for key, value in tuned.options().items() if value != before[key]}
