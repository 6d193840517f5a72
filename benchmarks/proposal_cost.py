"""What a proposal costs that scores every token of a long question, beside the prefix it reads.

    python benchmarks/proposal_cost.py [--quick]

A Qwen2.5-VL-shaped model with random weights in float32 is asked one long question about an image
of so many visual tokens that the published rule of pruning wants the scores of all tokens of the
question. The proposal is timed as an answer reports it: the RPN's trunk over prefix and question,
the scores, the crop policy.

- last token: the map alone, which the last token of the question gives (``prune_above`` off);
- all tokens: the scores of all tokens as well, in one product;
- one by one: the scores of all tokens, each with a call of the head of its own, as any head can.

``ratio`` is the proposal's time over that of the prefix, through all layers, in the same answer.
Medians of rounds that take the cases in turns. One JSON line per case.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from random_qwen2_5_vl import CELL, write_random_qwen2_5_vl
from side_by_side import in_turns, noise_images, print_row, question_of

from sdrpn_core import RPN, Question, answer_batch, load_backbone
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.rpn.head import RPNHead
from sdrpn_core.runtime.clock import synchronized_stages

BENCHMARK = "proposal_cost"
LAST, ALL, ONE_BY_ONE = CASES = ("last token", "all tokens", "one by one")


@dataclass(frozen=True)
class Size:
    """How large everything is; B and R take the shares of L that they have in the 7B model."""

    n_layers: int
    width: int
    side: int
    words: int
    rounds: int


FULL = Size(n_layers=16, width=768, side=40, words=400, rounds=7)
QUICK = Size(n_layers=4, width=256, side=6, words=20, rounds=1)
RPN_LAYERS = 2


def measure(size: Size, folder: Path) -> None:
    """Measure and print."""
    write_random_qwen2_5_vl(folder, n_layers=size.n_layers, width=size.width)
    backbone = load_backbone(folder, device="cpu")
    rpn = RPN.from_backbone(backbone, branch=size.n_layers * 16 // 28, n_layers=RPN_LAYERS)
    (image,) = noise_images(1, (CELL * size.side, CELL * size.side))
    question = Question.about(image, question_of(size.words))
    # No cell is above the threshold: what follows the proposal is the same in all cases.
    policies = {
        LAST: MaskPolicy(threshold=0.999999),
        ALL: MaskPolicy(threshold=0.999999, prune_above=0, prune_rule="published"),
    }
    stages: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}

    def ask(case: str) -> None:
        proposer = RPNProposer(rpn, policies[LAST if case == LAST else ALL])
        with synchronized_stages():
            (found,) = answer_batch(backbone, [question], proposer, max_new_tokens=1)
        stages[case].append(dict(found.seconds))

    def one_by_one() -> None:
        with mock.patch.object(type(rpn.head), "highest_scores", RPNHead.highest_scores):
            ask(ONE_BY_ONE)

    in_turns({LAST: lambda: ask(LAST), ALL: lambda: ask(ALL), ONE_BY_ONE: one_by_one}, size.rounds)
    for case in CASES:
        kept = stages[case][1:]  # the first is the warm-up
        print_row(
            BENCHMARK,
            case=case,
            ratio=statistics.median(one["proposal"] / one["prefix"] for one in kept),
            seconds=statistics.median(one["proposal"] for one in kept),
            prefix_seconds=statistics.median(one["prefix"] for one in kept),
            visual_tokens=size.side**2,
            words=size.words,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    size = QUICK if parser.parse_args().quick else FULL
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        measure(size, Path(folder))


if __name__ == "__main__":
    main()
