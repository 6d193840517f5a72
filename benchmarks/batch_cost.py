"""What batches and shared prefixes save, in questions per second.

    python benchmarks/batch_cost.py [--quick]

A Qwen2.5-VL-shaped model with random weights in float32 answers a list of two-stage questions with
``answer_stream``. The RPN runs for each; every other question gets a crop, the others none, and all
answers have one length.

- different images, of several shapes: batches of 8 beside one at a time, with short answers and
  with long ones. On a CPU, batches save the way of the weights through the caches for each token of
  the answers, and nothing in the passes over prompts, which they pad;
- one image: each question by itself, all with one store of prefixes one after the other, and all
  in one batch.

``throughput`` is relative to the first case of its kind, as is ``spread``, its quartiles over the
rounds; medians of rounds that take the cases in turns. One JSON line per case; full size takes
about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fixed_crop import FixedCrop
from random_qwen2_5_vl import CELL, write_random_qwen2_5_vl
from side_by_side import in_turns, noise_images, print_row, question_of

from sdrpn_core import (
    RPN,
    Backbone,
    PrefixStore,
    Proposal,
    Question,
    answer_stream,
    load_backbone,
)
from sdrpn_core.answering.prefill import Prefill
from sdrpn_core.answering.token_layers import TokenLayerCounter

BENCHMARK = "batch_cost"
BATCH = 8


@dataclass(frozen=True)
class Size:
    """How large everything is; grids are (rows, columns) of visual tokens."""

    n_layers: int
    width: int
    branch: int
    rpn_layers: int
    grids: tuple[tuple[int, int], ...]
    questions: int
    short: int
    long: int
    rounds: int


FULL = Size(8, 512, 4, 1, ((24, 24), (20, 28), (28, 20), (22, 26)), 16, 4, 64, 3)
QUICK = Size(3, 256, 1, 1, ((4, 4), (3, 5)), 4, 2, 4, 1)


class EveryOther(FixedCrop):
    """Crops for questions that end in a full stop."""

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """The RPN runs for all."""
        cropped = super().propose(state)
        nothing = FixedCrop(self.rpn, None).nothing(state)
        return [
            with_crop if question.text.endswith(".") else without
            for question, with_crop, without in zip(state.questions, cropped, nothing, strict=True)
        ]


def text(index: int) -> str:
    """A question; no two of eight are alike in length."""
    return question_of(10 + index % 8) + (" ." if index % 2 else " ?")


def different(size: Size) -> list[Question]:
    """Each about an image of its own."""
    return [
        Question.about(noise_images(1, (CELL * columns, CELL * rows), seed=index)[0], text(index))
        for index in range(size.questions)
        for rows, columns in [size.grids[index % len(size.grids)]]
    ]


def about_one(size: Size) -> list[Question]:
    """All about one image."""
    rows, columns = size.grids[0]
    (image,) = noise_images(1, (CELL * columns, CELL * rows))
    return [Question.about(image, text(index)) for index in range(BATCH)]


def measure(backbone: Backbone, rpn: RPN, size: Size) -> None:
    """Measure and print."""
    proposer = EveryOther(rpn)

    def answer(questions: list[Question], n_new: int, batch_size: int, stored: bool) -> None:
        store = PrefixStore() if stored else None
        options = {"max_new_tokens": n_new, "min_new_tokens": n_new}
        for _ in answer_stream(
            backbone, questions, proposer, batch_size=batch_size, store=store, **options
        ):
            pass

    alone = {"one at a time": (1, False)}
    stored = {"one at a time, stored": (1, True)}
    batched = {f"batches of {BATCH}": (BATCH, False)}
    images = different(size)
    kinds: list[tuple[str, list[Question], int, dict[str, tuple[int, bool]]]] = [
        ("different images", images, size.short, alone | batched),
        ("different images", images[:BATCH], size.long, alone | batched),
        ("one image", about_one(size), size.short, alone | stored | batched),
    ]
    for kind, questions, n_new, settings in kinds:
        cases: dict[str, Callable[[], object]] = {
            case: partial(answer, questions, n_new, *setting) for case, setting in settings.items()
        }
        work = {}
        for case, run in cases.items():
            with TokenLayerCounter(backbone, rpn) as work[case]:
                run()
        times = in_turns(cases, size.rounds, warm_up=False)
        first = next(iter(cases))
        for case in cases:
            print_row(
                BENCHMARK,
                questions=kind,
                answer_tokens=n_new,
                case=case,
                per_second=len(questions) / times.median(case),
                throughput=times.ratio(first, case),
                spread=times.spread(first, case),
                token_layers=work[case].token_layers,
                work=work[case].token_layers / work[first].token_layers,
                n=len(questions),
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    size = QUICK if parser.parse_args().quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        write_random_qwen2_5_vl(Path(folder), n_layers=size.n_layers, width=size.width)
        backbone = load_backbone(folder, device="cpu")
        rpn = RPN.from_backbone(backbone, branch=size.branch, n_layers=size.rpn_layers)
        measure(backbone, rpn, size)


if __name__ == "__main__":
    main()
