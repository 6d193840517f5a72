"""The whole method on the embedded backbones: label, train, compare, and draw the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sdrpn_bench import BenchModel, run_benchmark
from sdrpn_core import (
    RPN,
    Backbone,
    Question,
    Record,
    RPNProposer,
    answer_batch,
    load_backbone,
    open_image,
    read_records,
)
from sdrpn_core.grid.overlay import Caption, draw_before_after
from sdrpn_core.labeling.stage import label
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.stage import train
from sdrpn_core.util.atomic_files import atomic_write

from . import backbone_dir
from .families import NAMES
from .families.base import MAX_NEW_TOKENS
from .records import is_correct

#: The methods that are compared, including the controls.
METHODS = ("baseline", "sdrpn", "attention", "random", "oracle")

TRAIN_DATA = "glyphs/train"
TEST_DATA = "glyphs/small"

#: Number of questions that the model labels for itself.
N_LABELS = 6000
LABEL_BATCH = 64
BENCH_BATCH = 25

#: Images per forward pass of the training; does not affect the result.
MICRO_BATCH = 32

#: Number of before/after images: of the first test questions, right or wrong.
N_OVERLAYS = 6

Log = Callable[[str], None]


@dataclass(frozen=True)
class QuickstartResult:
    """The result of the quickstart.

    Attributes:
        results: as in ``results.json``, for all families.
        seconds: wall time of each stage in this session, by family; ``bench`` covers all families.
        overlays: paths of the before/after images.
    """

    results: dict[str, Any]
    seconds: dict[str, float]
    overlays: list[Path]


def run_quickstart(
    out: Path, *, n: int, seed: int, log: Log, families: Sequence[str] = tuple(NAMES)
) -> QuickstartResult:
    """Label, train and compare; work that an earlier session finished is reused.

    Every family goes through the same code.

    Args:
        out: folder of the run; labels and RPN of a family are in a folder of that name.
        n: number of test questions.
        seed: seed of the test questions. Labels and RPN do not depend on it.
        log: called with a line of progress.
        families: the embedded backbones to use.
    """
    seconds: dict[str, float] = {}
    models = []
    for number, family in enumerate(families, start=1):
        backbone = load_backbone(backbone_dir(family), device="cpu")
        prefix = f"[{number}/{len(families)}] {family}:"
        rpn = _train_rpn(backbone, out / family, seconds, partial(_log_line, log, prefix))
        models.append((BenchModel(backbone, rpn, name=family), backbone, rpn))

    start = time.perf_counter()
    log(f"asking {n} questions about details that the models cannot see in the whole image ...")
    results = run_benchmark(
        [model for model, _, _ in models],
        METHODS,
        TEST_DATA,
        out=out,
        n=n,
        seed=seed,
        batch_size=BENCH_BATCH,
        max_new_tokens=MAX_NEW_TOKENS,
        overwrite=True,
    )
    seconds["bench"] = time.perf_counter() - start

    records = list(read_records(TEST_DATA, n=min(n, N_OVERLAYS), seed=seed))
    overlays = [
        path
        for model, backbone, rpn in models
        for path in _draw_overlays(backbone, rpn, records, out / str(model.name) / "overlays")
    ]
    return QuickstartResult(results, seconds, overlays)


def _log_line(log: Log, prefix: str, line: str) -> None:
    log(f"{prefix} {line}")


def _train_rpn(backbone: Backbone, folder: Path, seconds: dict[str, float], log: Log) -> RPN:
    """Label with the model's own attention, and train an RPN on the labels."""
    start = time.perf_counter()
    log(f"labeling {N_LABELS} questions with the model's own attention ...")
    labels = read_records(TRAIN_DATA, n=N_LABELS, seed=0)
    summary = label(
        backbone, labels, folder / "labels", batch_size=LABEL_BATCH, max_new_tokens=MAX_NEW_TOKENS
    )
    seconds[f"{folder.name} label"] = time.perf_counter() - start
    counts = ", ".join(f"{v} {k.value}" for k, v in summary.counts.items() if v)
    log(f"{counts} in {time.perf_counter() - start:.0f} s")

    start = time.perf_counter()
    log("training an RPN on these labels, on top of the frozen model's middle layers ...")
    settings = TrainingSettings.for_backbone(backbone, micro_batch_size=MICRO_BATCH)
    trained = train(backbone, folder / "labels", folder / "train", settings)
    seconds[f"{folder.name} train"] = time.perf_counter() - start
    log(f"{trained.steps} steps in {time.perf_counter() - start:.0f} s, loss {trained.loss:.3f}")
    return trained.rpn


def _draw_overlays(backbone: Backbone, rpn: RPN, records: list[Record], folder: Path) -> list[Path]:
    """Draw one image per record: the plain answer, and the answer with its region."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [open_image(record.images[0]) for record in records]
    questions = [Question(r.question, (image,)) for r, image in zip(records, images, strict=True)]
    plain = answer_batch(backbone, questions, max_new_tokens=MAX_NEW_TOKENS)
    found = answer_batch(backbone, questions, RPNProposer(rpn), max_new_tokens=MAX_NEW_TOKENS)
    paths = []
    for index, record in enumerate(records):
        drawn = draw_before_after(
            images[index],
            record.question,
            Caption(f"before: {plain[index].text}", is_correct(plain[index].text, record)),
            Caption(f"after: {found[index].text}", is_correct(found[index].text, record)),
            roi=found[index].proposals[0].roi,
            geometry=backbone.preprocess(images[index]).geometry,
            boxes=found[index].boxes,
            note=f"expected: {record.answer}",
        )
        path = folder / f"{index:02d}.png"
        with atomic_write(path) as file:
            drawn.save(file, format="PNG")
        paths.append(path)
    return paths
