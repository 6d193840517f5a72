"""Calibrate the gate of an RPN: choose its threshold once, on held-out questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sdrpn_bench.bench_model import BenchModel
from sdrpn_bench.defaults import DEFAULT_BATCH_SIZE, DEFAULT_MAX_LOSS
from sdrpn_bench.item_store import ItemStore, Row
from sdrpn_bench.operating_points import GatedQuestions, OperatingPoint
from sdrpn_bench.runner import Progress, run_benchmark
from sdrpn_bench.sweep import Sweep
from sdrpn_core.backbone.loading import load_for_process
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.read import read_records
from sdrpn_core.distributed.processes import processes, wait_for_everyone
from sdrpn_core.errors import CheckpointError, ConfigError, InputError
from sdrpn_core.gate.config import Calibration
from sdrpn_core.rpn.backbone_source import backbone_source
from sdrpn_core.rpn.checkpoint import read_rpn_config, save_gate_threshold
from sdrpn_core.rpn.model import RPN

if TYPE_CHECKING:
    from sdrpn_bench.scoring import MetricChoice
    from sdrpn_core.data.record import Record

#: Behind a gate that is always closed an answer is plain, after the same first look.
_CLOSED = Sweep("sdrpn", "gate_threshold", (1.0,))
_CROPPED, (_PLAIN,) = _CLOSED.method, _CLOSED.variants({})
#: Shares of skipped questions whose thresholds are shown beside the chosen one.
_SHOWN_SHARES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class CalibratedGate:
    """What a calibration chose, and from what.

    Attributes:
        threshold: written into the RPN's configuration.
        calibration: the same as is written beside it.
        shown: operating points for a table, from always cropping to never; the chosen one is
            among them.
    """

    threshold: float
    calibration: Calibration
    shown: tuple[OperatingPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def calibrate_gate(
    rpn: str | Path,
    data: str | Path | Sequence[Record],
    *,
    model: str | Path | None = None,
    max_loss: float = DEFAULT_MAX_LOSS,
    first_look_tokens: int | None = None,
    out: str | Path | None = None,
    n: int | None = None,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_new_tokens: int | None = None,
    max_pixels: int = MAX_PIXELS,
    metric: MetricChoice | None = None,
    metric_options: Mapping[str, Any] | None = None,
    read_options: Mapping[str, Any] | None = None,
    load_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> CalibratedGate:
    """Choose the highest threshold that costs no more than a stated accuracy, and save it.

    Every question is answered plainly and with its crop, and the gate is asked. The accuracy behind
    a threshold is then that of the plain answers below it and of the cropped ones above.

    Args:
        rpn: local folder of an RPN with a gate; its ``config.json`` is rewritten.
        data: held-out questions with answers, that neither RPN nor gate were trained on: what
            ``read_records`` accepts.
        model: the backbone; default: the one that the RPN names.
        max_loss: how far accuracy may lie below that of always cropping.
        first_look_tokens: as the answers are to have it, see
            :func:`~sdrpn_core.answering.answer.answer_batch`.
        out: folder of the benchmark run behind it, which goes on where it stopped; another
            ``max_loss`` then takes no answers. Default: none is kept.
        n: number of questions; default: all.
        seed: selects the questions.
        batch_size: questions per batch.
        max_new_tokens: maximum length of an answer; default: the dataset's.
        max_pixels: questions whose image has more pixels are left out.
        metric: scores the answers; default: the dataset's own, else ``exact_match``.
        metric_options: options of a metric that is given by name.
        read_options: further arguments of ``read_records``.
        load_options: arguments of ``load_backbone``.
        progress: called after every batch.

    Raises:
        CheckpointError: no local RPN there, or one without a gate.
        ConfigError: ``max_loss`` is out of range, no ``out`` for several processes, or ``out``
            holds another run.
        InputError: no question could be answered.
        SdrpnError: see ``run_benchmark``.
    """
    if not 0 <= max_loss < 1:
        raise ConfigError(f"max_loss must lie between 0 and 1, not {max_loss}")
    if not Path(rpn).is_dir():
        raise CheckpointError(f"{rpn}: no such RPN folder; only a local one can be calibrated")
    config, _ = read_rpn_config(rpn)
    if config.gate is None:
        raise CheckpointError(f"{rpn}: this RPN has no gate: train one, `sdrpn train` says how")
    options = dict(load_options or {})
    state = processes(options.get("device"))
    if out is None and state.num_processes > 1:
        raise ConfigError("several processes need a folder that they share: give out")
    records = read_records(data, n=n, seed=seed, **(read_options or {}))
    source: tuple[str, str | None] = (str(model), None)
    if model is None:
        source = backbone_source(config, rpn)
    backbone = load_for_process(source[0], {"revision": source[1], **options})
    loaded = RPN.from_pretrained(rpn, backbone=backbone)
    # The same run whatever was calibrated before.
    loaded.config = replace(config, gate=replace(config.gate, threshold=0.0, calibration=None))
    with ExitStack() as held:
        folder = Path(out or held.enter_context(TemporaryDirectory()))
        results = run_benchmark(
            BenchModel(backbone, loaded, name=Path(source[0]).name),
            [_CROPPED],
            records,
            out=folder,
            seed=seed,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            max_pixels=max_pixels,
            method_options={
                _CROPPED: {
                    "gate_threshold": 0.0,
                    "always_ask_gate": True,
                    "first_look_tokens": first_look_tokens,
                }
            },
            sweeps=[_CLOSED],
            metric=metric,
            metric_options=metric_options,
            load_options=load_options,
            progress=progress,
        )
        rows = ItemStore(folder, state.process_index).read()
    found = _questions(rows)
    best = found.best(max_loss)
    compared = found.compared(best)
    calibration = Calibration(
        data=_shared_name(results["data"]),
        fingerprint=results["data_fingerprint"],
        n=len(found),
        metric=results["metric"]["name"],
        max_loss=max_loss,
        always=found.points()[0].accuracy,
        never=found.plain_accuracy,
        accuracy=best.accuracy,
        difference=compared.interval,
        skipped=best.n_skipped / len(found),
        first_look_tokens=first_look_tokens,
    )
    if state.is_main_process:
        save_gate_threshold(rpn, best.threshold, calibration)
    wait_for_everyone(state)
    return CalibratedGate(best.threshold, calibration, _shown(found, best))


def _shared_name(data: str) -> str:
    """What the data are called; of a path its end, since the rest says nothing elsewhere."""
    return Path(data).name if Path(data).exists() else data


def _questions(rows: Sequence[Row]) -> GatedQuestions:
    """The questions that the gate was asked about.

    Raises:
        InputError: there are none.
    """
    asked = [row["methods"] for row in rows if "gate" in row.get("methods", {}).get(_CROPPED, {})]
    if not asked:
        raise InputError("the gate could not be asked about any of the questions: see the log")
    return GatedQuestions(
        [methods[_CROPPED]["gate"] for methods in asked],
        [methods[_PLAIN]["score"] for methods in asked],
        [methods[_CROPPED]["score"] for methods in asked],
    )


def _shown(found: GatedQuestions, best: OperatingPoint) -> tuple[OperatingPoint, ...]:
    points = found.points()
    near = [
        min(points, key=lambda point: abs(point.n_skipped - share * len(found)))
        for share in _SHOWN_SHARES
    ]
    chosen = {point.n_skipped: point for point in (points[0], *near, best, points[-1])}
    return tuple(chosen[number] for number in sorted(chosen))
