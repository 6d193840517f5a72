"""Held-out questions: answered with and without a second look, for a threshold to be chosen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sdrpn_bench.bench_model import BenchModel
from sdrpn_bench.defaults import DEFAULT_BATCH_SIZE
from sdrpn_bench.item_store import ItemStore, Row
from sdrpn_bench.operating_points import GatedQuestions, OperatingPoint
from sdrpn_bench.runner import run_benchmark
from sdrpn_bench.share import Progress
from sdrpn_core.backbone.loading import load_for_process
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.read import read_records
from sdrpn_core.distributed.processes import processes
from sdrpn_core.errors import ConfigError
from sdrpn_core.gate.config import Calibration
from sdrpn_core.rpn.backbone_source import backbone_source
from sdrpn_core.rpn.model import RPN

if TYPE_CHECKING:
    from sdrpn_bench.scoring import MetricChoice
    from sdrpn_bench.sweep import Sweep
    from sdrpn_core.data.record import Record
    from sdrpn_core.rpn.config import RPNConfig

#: Shares of skipped questions whose thresholds are shown beside the chosen one.
_SHOWN_SHARES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class CalibratedThreshold:
    """What a calibration chose, and from what.

    Attributes:
        threshold: the chosen one.
        calibration: how it was chosen.
        shown: operating points for a table, from always cropping to never; the chosen one is
            among them.
        left_out: of the questions that do not count, which could not be answered: ``ID: why``.
    """

    threshold: float
    calibration: Calibration
    shown: tuple[OperatingPoint, ...]
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def check_max_loss(max_loss: float) -> None:
    """Check how much accuracy may be lost.

    Raises:
        ConfigError: it is no share below 1.
    """
    if not 0 <= max_loss < 1:
        raise ConfigError(f"max_loss must lie between 0 and 1, not {max_loss}")


@dataclass(frozen=True)
class HeldOut:
    """Held-out questions with answers, and how they are answered.

    Attributes:
        data: that nothing was trained on: what ``read_records`` accepts.
        model: the backbone; default: the one that the RPN names.
        first_look_tokens: as the answers are to have it, see
            :func:`~sdrpn_core.answering.answer.answer_batch`.
        out: folder of the benchmark run behind a calibration, which goes on where it stopped;
            another ``max_loss`` then takes no answers. Default: none is kept.
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
    """

    data: str | Path | Sequence[Record]
    model: str | Path | None = None
    first_look_tokens: int | None = None
    out: str | Path | None = None
    n: int | None = None
    seed: int = 0
    batch_size: int = DEFAULT_BATCH_SIZE
    max_new_tokens: int | None = None
    max_pixels: int = MAX_PIXELS
    metric: MetricChoice | None = None
    metric_options: Mapping[str, Any] | None = None
    read_options: Mapping[str, Any] | None = None
    load_options: Mapping[str, Any] | None = None
    progress: Progress | None = None

    def answer(
        self,
        rpn: str | Path,
        config: RPNConfig,
        methods: Mapping[str, Mapping[str, Any]],
        sweeps: Sequence[Sweep] = (),
    ) -> HeldOutAnswers:
        """Answer all questions with several methods, all after the same first look.

        Args:
            rpn: folder or Hub id.
            config: what the RPN is configured as meanwhile.
            methods: their options, besides the first look.
            sweeps: of these methods.

        Raises:
            ConfigError: several processes, and no ``out`` that they share; or ``out`` holds another
                run.
            SdrpnError: see ``run_benchmark``.
        """
        loading = dict(self.load_options or {})
        state = processes(loading.get("device"))
        if self.out is None and state.num_processes > 1:
            raise ConfigError("several processes need a folder that they share: give out")
        records = read_records(self.data, n=self.n, seed=self.seed, **(self.read_options or {}))
        source: tuple[str, str | None] = (str(self.model), None)
        if self.model is None:
            source = backbone_source(config, rpn)
        backbone = load_for_process(source[0], {"revision": source[1], **loading})
        loaded = RPN.from_pretrained(rpn, backbone=backbone)
        loaded.config = config
        look = {"first_look_tokens": self.first_look_tokens}
        with ExitStack() as held:
            folder = Path(self.out or held.enter_context(TemporaryDirectory()))
            results = run_benchmark(
                BenchModel(backbone, loaded, name=Path(source[0]).name),
                list(methods),
                records,
                out=folder,
                seed=self.seed,
                batch_size=self.batch_size,
                max_new_tokens=self.max_new_tokens,
                max_pixels=self.max_pixels,
                method_options={name: {**own, **look} for name, own in methods.items()},
                sweeps=sweeps,
                metric=self.metric,
                metric_options=self.metric_options,
                load_options=self.load_options,
                progress=self.progress,
            )
            rows = ItemStore(folder, state.process_index).read()
        return HeldOutAnswers(rows, results, self.first_look_tokens)


@dataclass(frozen=True)
class HeldOutAnswers:
    """What the questions were answered.

    Attributes:
        rows: one per question.
        results: of the benchmark.
        first_look_tokens: see :class:`HeldOut`.
    """

    rows: Sequence[Row]
    results: Mapping[str, Any]
    first_look_tokens: int | None

    def left_out(self, method: str, fact: str) -> tuple[str, ...]:
        """The questions of which a method told no such fact, each as ``ID: why``."""
        return tuple(
            f"{row['id']}: {row.get('error') or result.get('error') or f'no {fact}'}"
            for row in self.rows
            if fact not in (result := row.get("methods", {}).get(method, {}))
        )

    def best(
        self, found: GatedQuestions, max_loss: float, *, certain: bool
    ) -> tuple[OperatingPoint, Calibration, tuple[OperatingPoint, ...]]:
        """The best operating point, how it was chosen, and which ones to show beside it.

        Args:
            found: the questions, with what decides about each.
            max_loss: how far accuracy may lie below that of always cropping.
            certain: see :meth:`~sdrpn_bench.operating_points.GatedQuestions.best`.
        """
        best = found.best(max_loss, certain=certain)
        points = found.points()
        calibration = Calibration(
            data=_shared_name(self.results["data"]),
            fingerprint=self.results["data_fingerprint"],
            n=len(found),
            metric=self.results["metric"]["name"],
            max_loss=max_loss,
            always=found.cropped_accuracy,
            never=found.plain_accuracy,
            accuracy=best.accuracy,
            difference=found.compared(best).interval,
            skipped=best.n_skipped / len(found),
            first_look_tokens=self.first_look_tokens,
            certain=certain,
        )
        near = [
            min(points, key=lambda point: abs(point.n_skipped - share * len(found)))
            for share in _SHOWN_SHARES
        ]
        shown = {point.n_skipped: point for point in (points[0], *near, best, points[-1])}
        return best, calibration, tuple(shown[number] for number in sorted(shown))


def _shared_name(data: str) -> str:
    """What the data are called; of a path its end, since the rest says nothing elsewhere."""
    return Path(data).name if Path(data).exists() else data
