"""The whole method on the embedded backbones: label, train, judge, gate, compare, and draw."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sdrpn_bench import BenchModel, run_benchmark
from sdrpn_bench.calibrate import calibrate_gate
from sdrpn_bench.item_store import ItemStore
from sdrpn_bench.sweep import Sweep
from sdrpn_core import RPN, Backbone, load_backbone, read_records
from sdrpn_core.distributed.processes import processes, wait_for_everyone
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.labeling.stage import label
from sdrpn_core.training.gate_objective import GateObjective
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.stage import train
from sdrpn_core.utility.reference import Reference
from sdrpn_core.utility.stage import judge_crops
from sdrpn_glyphs import backbone_dir
from sdrpn_glyphs.families import NAMES
from sdrpn_glyphs.families.base import MAX_NEW_TOKENS
from sdrpn_glyphs.pictures import draw_pictures

#: The methods that are compared, including the controls.
METHODS = ("baseline", "sdrpn", "attention", "random", "oracle")
#: The RPN without its gate: every question gets its crop.
ALWAYS = Sweep("sdrpn", "gate_threshold", (0.0,))

TRAIN_DATA = "glyphs/train"
TEST_DATA = "glyphs/mixed"
#: Seeds of the training data: of the questions that are labeled, judged for the gate, and asked to
#: choose its threshold.
LABEL_SEED, GATE_SEED, CALIBRATION_SEED = 0, 1, 2

#: Number of questions that the model labels for itself.
N_LABELS = 1536
#: Number of questions whose crops are judged, to train a gate on; and to choose its threshold by.
N_JUDGED = 512
N_CALIBRATION = 300
LABEL_BATCH = 64
JUDGE_BATCH = 32
BENCH_BATCH = 25
#: Judged questions per shard; processes share whole shards.
JUDGE_SHARD = 4 * JUDGE_BATCH

#: Images per forward pass of the training; does not affect the result.
MICRO_BATCH = 32

#: A linear layer on what the RPN computes anyway. Small models learn with larger steps than the
#: published ones.
GATE = GateConfig(name="linear")
GATE_SETTINGS = {"learning_rate": 1e-2, "global_batch_size": 32, "epochs": 4}

Log = Callable[[str], None]


@dataclass(frozen=True)
class QuickstartResult:
    """The result of the quickstart.

    Attributes:
        results: as in ``results.json``, for all families.
        seconds: wall time of each stage in this session, by family; ``bench`` covers all families.
        overlays: paths of the images of questions that were helped, that needed no region, and that
            were answered wrong; the main process draws them, the others have none.
    """

    results: dict[str, Any]
    seconds: dict[str, float]
    overlays: list[Path]


def run_quickstart(
    out: Path, *, n: int, seed: int, log: Log, families: Sequence[str] = tuple(NAMES)
) -> QuickstartResult:
    """Label, train, gate and compare; work that an earlier session finished is reused.

    Every family goes through the same code. Started by ``accelerate launch``, the processes share
    the work of every stage, and all get the same results.

    Args:
        out: folder of the run; labels and RPN of a family are in a folder of that name.
        n: number of test questions.
        seed: seed of the test questions. Labels, RPN and gate do not depend on it.
        log: called with a line of progress, in the main process.
        families: the embedded backbones to use.

    Raises:
        UnknownNameError: there is no embedded backbone of a name.
    """
    folders = {family: backbone_dir(family) for family in families}
    state = processes("cpu")
    seconds: dict[str, float] = {}
    models = []
    if not state.is_main_process:
        log = _silent
    for number, (family, source) in enumerate(folders.items(), start=1):
        backbone = load_backbone(source, device="cpu")
        prefix = f"[{number}/{len(folders)}] {family}:"
        own_log = partial(_log_line, log, prefix)
        folder = _train_rpn(backbone, out / family, seconds, own_log)
        rpn = _train_gate(backbone, family, folder, out / family, seconds, own_log)
        models.append(BenchModel(backbone, rpn, name=family))

    start = time.perf_counter()
    log(f"asking {n} questions, of which some need a closer look ...")
    results = run_benchmark(
        models,
        METHODS,
        TEST_DATA,
        out=out,
        n=n,
        seed=seed,
        batch_size=BENCH_BATCH,
        max_new_tokens=MAX_NEW_TOKENS,
        sweeps=(ALWAYS,),
        overwrite=True,
    )
    seconds["bench"] = time.perf_counter() - start

    overlays = []
    if state.is_main_process:
        rows = ItemStore(out).read()
        records = read_records(TEST_DATA, n=n, seed=seed)
        for model in models:
            overlays += draw_pictures(model, records, rows, out / str(model.name) / "pictures")
    wait_for_everyone(state)
    return QuickstartResult(results, seconds, overlays)


def _silent(line: str) -> None:
    """Log nothing."""


def _log_line(log: Log, prefix: str, line: str) -> None:
    log(f"{prefix} {line}")


def _train_rpn(backbone: Backbone, folder: Path, seconds: dict[str, float], log: Log) -> Path:
    """Label with the model's own attention, and train an RPN on the labels; returns its folder."""
    start = time.perf_counter()
    log(f"labeling {N_LABELS} questions with the model's own attention ...")
    labels = read_records(TRAIN_DATA, n=N_LABELS, seed=LABEL_SEED)
    summary = label(
        backbone, labels, folder / "labels", batch_size=LABEL_BATCH, max_new_tokens=MAX_NEW_TOKENS
    )
    seconds[f"{folder.name} label"] = time.perf_counter() - start
    log(f"{_counts(summary.counts)} in {time.perf_counter() - start:.0f} s")

    start = time.perf_counter()
    log("training an RPN on these labels, on top of the frozen model's middle layers ...")
    settings = TrainingSettings.for_backbone(backbone, micro_batch_size=MICRO_BATCH)
    # The frozen layers run once instead of once per pass.
    trained = train(
        backbone,
        folder / "labels",
        folder / "train",
        settings,
        feature_cache=folder / "label-features",
    )
    seconds[f"{folder.name} train"] = time.perf_counter() - start
    log(f"{trained.steps} steps in {time.perf_counter() - start:.0f} s, loss {trained.loss:.3f}")
    return trained.folder


def _train_gate(
    backbone: Backbone,
    family: str,
    rpn_folder: Path,
    folder: Path,
    seconds: dict[str, float],
    log: Log,
) -> RPN:
    """Judge the RPN's crops, train a gate on what they are worth, and choose its threshold."""
    start = time.perf_counter()
    log(f"judging {N_JUDGED} crops by how much more likely they make the answer ...")
    rpn = RPN.from_pretrained(rpn_folder, backbone=backbone)
    summary = judge_crops(
        backbone,
        read_records(TRAIN_DATA, n=N_JUDGED, seed=GATE_SEED),
        folder / "utility",
        rpn,
        reference=Reference(max_new_tokens=MAX_NEW_TOKENS),
        n_candidates=0,
        batch_size=JUDGE_BATCH,
        shard_size=JUDGE_SHARD,
    )
    seconds[f"{family} judge"] = time.perf_counter() - start
    log(f"{_counts(summary.counts)} in {time.perf_counter() - start:.0f} s")

    start = time.perf_counter()
    log("training a gate on these judgments, and choosing its threshold on other questions ...")
    objective = GateObjective(rpn_folder, GATE)
    settings = objective.settings(backbone, micro_batch_size=MICRO_BATCH, **GATE_SETTINGS)
    trained = train(
        backbone,
        folder / "utility",
        folder / "gate",
        settings,
        objective=objective,
        feature_cache=folder / "features",
    )
    found = calibrate_gate(
        trained.folder,
        TRAIN_DATA,
        model=backbone_dir(family),
        out=folder / "calibration",
        n=N_CALIBRATION,
        seed=CALIBRATION_SEED,
        batch_size=BENCH_BATCH,
        max_new_tokens=MAX_NEW_TOKENS,
        load_options={"device": "cpu"},
    )
    seconds[f"{family} gate"] = time.perf_counter() - start
    log(
        f"{trained.steps} steps, threshold {found.threshold:.2f} in "
        f"{time.perf_counter() - start:.0f} s"
    )
    return RPN.from_pretrained(trained.folder, backbone=backbone)


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{number} {status.value}" for status, number in counts.items() if number)
