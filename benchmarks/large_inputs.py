"""What long questions, pruned images and images of 12 megapixels cost, beside the plain answer.

    python benchmarks/large_inputs.py [--quick]

A model shaped like Qwen2.5-VL with random weights in float32 answers one question at a time. The
RPN runs, and a fixed box is cropped.

- long question, 400 words about 1,024 visual tokens: the map alone, which the last token of the
  question scores, and with the scores of all its tokens, which pruning reads;
- pruned: a short question about 3,200 visual tokens, of which the second pass drops none, 3, or
  half, as published: what is cached ends where the image begins. By default, 3 tokens are not
  dropped, because that would cost more than it saves;
- 12 megapixels: a JPEG of 4,000 x 3,000 is opened; opened and prepared for the vision encoder; and
  answered plainly, all from the file, with at most 3,200 visual tokens.

``to_plain`` is time over that of the plain answer to the same question about the same image, which
for the images begins with the file, ``spread`` its quartiles over the rounds.
``proposal_to_prefix`` is what the proposal takes over what the prefix takes in the decoder. Medians
of rounds that take the cases in turns. One JSON line per case; full size takes about ten minutes on
two cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from fixed_crop import FixedCrop
from PIL import Image
from random_qwen2_5_vl import CELL, write_random_qwen2_5_vl
from side_by_side import in_turns, noise_images, print_row, question_of

from sdrpn_core import RPN, Backbone, Proposal, Question, answer_batch, load_backbone, open_image
from sdrpn_core.answering.prefill import Prefill
from sdrpn_core.crops.bbox import BboxPolicy

BENCHMARK = "large_inputs"
PLAIN = "plain answer"


@dataclass(frozen=True)
class Size:
    """How large everything is; grids are (rows, columns) of visual tokens."""

    n_layers: int
    width: int
    branch: int
    rpn_layers: int
    new_tokens: int
    words: int
    asked_grid: tuple[int, int]
    pruned_grid: tuple[int, int]
    jpeg: tuple[int, int]
    rounds: int


FULL = Size(16, 768, 9, 2, 8, 400, (32, 32), (50, 64), (4000, 3000), 7)
QUICK = Size(3, 256, 1, 1, 2, 20, (4, 4), (4, 8), (224, 168), 1)
SHORT = 20


class Scoring(FixedCrop):
    """Has the scores of all tokens of the question computed, as pruning does."""

    def __init__(self, rpn: RPN) -> None:
        super().__init__(rpn)
        self.policy = BboxPolicy(prune_above=0, prune_rule="published")


class Dropping(FixedCrop):
    """Drops tokens of the image from the second pass, beginning in its middle.

    Args:
        rpn: any.
        n_dropped: how many.
        at_any_cost: as published; else, only where it saves token-layers.
    """

    def __init__(self, rpn: RPN, n_dropped: int, *, at_any_cost: bool = True) -> None:
        super().__init__(rpn)
        self.n_dropped = n_dropped
        self.at_any_cost = at_any_cost

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """The box, and what is kept beside it."""
        (prompt,) = state.prompts
        (row,) = super().propose(state)
        rows, columns = prompt.images[0].grid
        keep = np.ones(rows * columns, dtype=bool)
        middle = len(keep) // 2
        keep[middle : middle + self.n_dropped] = False
        kept = keep.reshape(rows, columns)
        plan = replace(row[0].plan, keep=kept, prunes_at_any_cost=self.at_any_cost)
        return [[replace(row[0], plan=plan)]]


class Measurement:
    """One model and its RPN."""

    def __init__(self, backbone: Backbone, rpn: RPN, size: Size) -> None:
        self.backbone = backbone
        self.rpn = rpn
        self.size = size
        self.options = {"max_new_tokens": size.new_tokens, "min_new_tokens": size.new_tokens}

    def ask(self, question: Question, proposer: FixedCrop | None = None) -> Mapping[str, float]:
        """Answer; seconds per stage."""
        (found,) = answer_batch(self.backbone, [question], proposer, **self.options)
        return found.seconds

    def about(self, grid: tuple[int, int], n_words: int) -> Question:
        """A question about an image of so many visual tokens."""
        rows, columns = grid
        (image,) = noise_images(1, (CELL * columns, CELL * rows))
        return Question.about(image, question_of(n_words))

    def long_question(self) -> None:
        """What the proposal takes when every token of a question scores the image."""
        question = self.about(self.size.asked_grid, self.size.words)
        self._print(
            "long question",
            {
                PLAIN: partial(self.ask, question),
                "map": partial(self.ask, question, FixedCrop(self.rpn)),
                "map and question scores": partial(self.ask, question, Scoring(self.rpn)),
            },
        )

    def pruned(self) -> None:
        """What dropping tokens takes, and saves."""
        question = self.about(self.size.pruned_grid, SHORT)
        n_tokens = self.size.pruned_grid[0] * self.size.pruned_grid[1]
        self._print(
            "pruned",
            {
                PLAIN: partial(self.ask, question),
                "none dropped": partial(self.ask, question, FixedCrop(self.rpn)),
                "3 dropped if that pays": partial(
                    self.ask, question, Dropping(self.rpn, 3, at_any_cost=False)
                ),
                "3 dropped": partial(self.ask, question, Dropping(self.rpn, 3)),
                "half dropped": partial(self.ask, question, Dropping(self.rpn, n_tokens // 2)),
            },
        )

    def large_image(self, folder: Path) -> None:
        """What comes before the vision encoder, from the file on."""
        path = folder / "large.jpg"
        width, height = self.size.jpeg
        (coarse,) = noise_images(1, (width // 8, height // 8))  # photographs are smooth
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)

        def opened() -> Mapping[str, float]:
            open_image(path)
            return {}

        def prepared() -> Mapping[str, float]:
            self.backbone.preprocess(open_image(path))
            return {}

        self._print(
            "12 megapixels",
            {
                PLAIN: lambda: self.ask(Question.about(path, question_of(SHORT))),
                "opened": opened,
                "opened and prepared": prepared,
            },
        )

    def _print(self, kind: str, cases: Mapping[str, Callable[[], Mapping[str, float]]]) -> None:
        spent: dict[str, list[Mapping[str, float]]] = {case: [] for case in cases}
        for run in cases.values():  # for the first time, which allocates
            run()
        times = in_turns(
            {case: lambda case=case: spent[case].append(cases[case]()) for case in cases},
            self.size.rounds,
            warm_up=False,
        )
        for case, found in spent.items():
            shares = [one["proposal"] / one["prefix"] for one in found if "proposal" in one]
            print_row(
                BENCHMARK,
                kind=kind,
                case=case,
                seconds=times.median(case),
                to_plain=times.ratio(case, PLAIN),
                spread=times.spread(case, PLAIN),
                proposal_to_prefix=statistics.median(shares) if shares else None,
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    size = QUICK if parser.parse_args().quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, columns = size.pruned_grid
        write_random_qwen2_5_vl(
            folder / "model",
            n_layers=size.n_layers,
            width=size.width,
            max_tokens=rows * columns,
        )
        backbone = load_backbone(folder / "model", device="cpu")
        rpn = RPN.from_backbone(backbone, branch=size.branch, n_layers=size.rpn_layers)
        measurement = Measurement(backbone, rpn, size)
        measurement.long_question()
        measurement.pruned()
        measurement.large_image(folder)


if __name__ == "__main__":
    main()
