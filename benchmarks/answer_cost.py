"""What a two-stage answer costs, beside the plain one and beside the least that it could.

    python benchmarks/answer_cost.py [--quick]

Models with random weights in float32, one shaped like LLaVA-1.5 (576 visual tokens, and as many for
each crop), one like Qwen2.5-VL (1,024, crops by their size), answer one question at a time, all
answers of one length. The LLaVA-shaped one also does so as its preset would, with the crop policy
``mask``: half of the crop's tokens are dropped before the decoder.

- baseline: the plain answer;
- two-stage: the RPN runs, and a fixed box is cropped. The prefix is kept between the two passes;
- recomputed: the same, but nothing is kept, as in the published code: the second pass encodes and
  runs everything again;
- no region: the RPN runs and finds nothing to crop. The plain answer has begun and goes on;
- no region, apart: the same, but prefix and question run apart from each other, as a store of
  prefixes makes them: first the prefix, then the question to the branch layer, then the question.

Work is counted in token-layers, by hooks, for the decoder and for the RPN's trunk. The floor of an
answer with a crop is prefix x L + question x B + RPN + (crop + question + response) x L; without a
region it is the baseline and the RPN. What it would take in seconds is estimated from the baseline
of the same run: what the baseline's stages take, scaled by their token-layers (decoding goes token
by token and is taken as it is; a crop's pass through the vision encoder by its share of patches).
That attention costs more with every token before it is not in the floor.

``ratio`` is measured time over the baseline's, ``floor_ratio`` the floor's over the baseline's,
``over_floor`` the one over the other. Medians of rounds that take the cases in turns. One JSON line
per case, one with the seconds of each stage; full size takes about four minutes on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fixed_crop import FixedCrop
from PIL import Image
from random_llava import PATCH, write_random_llava
from random_qwen2_5_vl import CELL, write_random_qwen2_5_vl
from side_by_side import in_turns, noise_images, print_row, question_of

from sdrpn_core import (
    RPN,
    Answer,
    Backbone,
    PrefixStore,
    Question,
    answer_batch,
    load_backbone,
)
from sdrpn_core.answering.crop_encoding import encode_crops
from sdrpn_core.answering.prefill import Prefill
from sdrpn_core.answering.proposer import Proposal
from sdrpn_core.answering.token_layers import AnswerShape, TokenLayerCounter
from sdrpn_core.grid.geometry import Box
from sdrpn_core.rpn.prediction import predict_prompt_roi
from sdrpn_core.runtime.clock import synchronized_stages
from sdrpn_core.runtime.generation import generate, prompt_block

BENCHMARK = "answer_cost"
BASELINE, TWO_STAGE, RECOMPUTED, NO_REGION, APART = CASES = (
    "baseline",
    "two-stage",
    "recomputed",
    "no region",
    "no region, apart",
)
WITHOUT_CROP = (BASELINE, NO_REGION, APART)
QUESTION_TOKENS = 20


@dataclass(frozen=True)
class Shape:
    """A model and an image; B and R take the shares of L that they have in the 7B models."""

    name: str
    write: Callable[..., None]
    side: int
    branch: int
    rope: bool
    half: bool = False


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    n_layers: int
    width: int
    cells: tuple[int, int]
    rpn_layers: int
    new_tokens: int
    rounds: int


FULL = Size(16, 768, (24, 32), rpn_layers=2, new_tokens=8, rounds=7)
QUICK = Size(4, 256, (4, 4), rpn_layers=1, new_tokens=2, rounds=1)


def shapes(size: Size) -> list[Shape]:
    """What is measured."""
    llava, qwen = size.cells
    padded_square = Shape(
        "LLaVA-1.5",
        partial(write_random_llava, grid=llava),
        PATCH * llava,
        branch=size.n_layers * 15 // 32,
        rope=False,
    )
    dynamic = Shape(
        "Qwen2.5-VL",
        write_random_qwen2_5_vl,
        CELL * qwen,
        branch=size.n_layers * 16 // 28,
        rope=True,
    )
    return [padded_square, replace(padded_square, name="LLaVA-1.5, mask", half=True), dynamic]


def recomputed(
    backbone: Backbone, rpn: RPN, question: Question, proposals: Sequence[Proposal], n_new: int
) -> None:
    """Both passes from scratch; the crop is known."""
    predict_prompt_roi(backbone, backbone.encode([question]), rpn)
    (prompt,) = backbone.encode([question])
    jobs = [(image, one.plan) for image, one in zip(question.images, proposals, strict=True)]
    crops = tuple(
        tuple(part for segment in segments for part in backbone.frame_crop(segment))
        for _, segments in encode_crops(backbone, jobs)
    )
    block = prompt_block(backbone, [prompt.with_crops(crops)])
    generate(backbone, block, max_new_tokens=n_new, min_new_tokens=n_new)


def crop_cells(backbone: Backbone, image: Image.Image, boxes: Sequence[Box]) -> int:
    """How many visual tokens the encoder makes of the crops."""
    grids = [backbone.preprocess_crop(image.crop(box)).geometry.grid for box in boxes]
    return sum(rows * columns for rows, columns in grids)


class KeepsStages(list[Answer]):
    """The answers of a case, for the medians of their stages."""

    def ask(self, run: Callable[[], list[Answer]]) -> None:
        """Answer once more."""
        self.extend(run())

    def medians(self) -> dict[str, float]:
        """Median seconds per stage, the first (warm-up) answer left out."""
        kept = self[1:]
        return {
            stage: statistics.median(one.seconds[stage] for one in kept)
            for stage in kept[0].seconds
        }


def floor_seconds(
    baseline: dict[str, float], shape: AnswerShape, n_layers: int, work: int, crop_share: float
) -> float:
    """What so many token-layers, those of the response left out, take at the baseline's speed."""
    per_token_layer = baseline["prefill"] / ((shape.prefix + shape.question) * n_layers)
    return baseline["vision"] * (1 + crop_share) + per_token_layer * work + baseline["decode"]


def measure(shape: Shape, size: Size, folder: Path) -> None:
    """Measure one model and print its rows."""
    shape.write(folder, n_layers=size.n_layers, width=size.width)
    backbone = load_backbone(folder, device="cpu")
    rpn = RPN.from_backbone(
        backbone,
        branch=shape.branch,
        n_layers=size.rpn_layers,
        head_options={"rope": shape.rope},
    )
    (image,) = noise_images(1, (shape.side, shape.side))
    question = Question.about(image, question_of(QUESTION_TOKENS))
    n_new = size.new_tokens
    cropping = FixedCrop(rpn, half=shape.half)
    answers = {case: KeepsStages() for case in CASES}
    proposals: list[Proposal] = []

    class Noted(FixedCrop):
        """Remembers what was cropped, for the case that is to crop the same."""

        def propose(self, state: Prefill) -> list[list[Proposal]]:
            found = super().propose(state)
            proposals[:] = found[0]
            return found

    def ask(proposer: FixedCrop | None, *, apart: bool = False) -> list[Answer]:
        store = PrefixStore() if apart else None
        options = {"max_new_tokens": n_new, "min_new_tokens": n_new}
        with synchronized_stages():
            return answer_batch(backbone, [question], proposer, store=store, **options)

    ask(Noted(rpn, half=shape.half))
    cases: dict[str, Callable[[], object]] = {
        BASELINE: partial(answers[BASELINE].ask, partial(ask, None)),
        TWO_STAGE: partial(answers[TWO_STAGE].ask, partial(ask, cropping)),
        RECOMPUTED: partial(recomputed, backbone, rpn, question, proposals, n_new),
        NO_REGION: partial(answers[NO_REGION].ask, partial(ask, FixedCrop(rpn, None))),
        APART: partial(answers[APART].ask, partial(ask, FixedCrop(rpn, None), apart=True)),
    }
    work = {}
    for case, run in cases.items():
        with TokenLayerCounter(backbone, rpn) as counter:
            run()
        work[case] = counter
    for kept in answers.values():
        kept.clear()
    times = in_turns(cases, size.rounds)
    (prompt,) = backbone.encode([question])
    prefix = prompt.prefix_length
    plain = answers[BASELINE].medians()
    crop = answers[TWO_STAGE][0].n_visual_tokens - answers[BASELINE][0].n_visual_tokens
    n_image = answers[BASELINE][0].n_visual_tokens
    n_cells = crop_cells(backbone, image, answers[TWO_STAGE][0].boxes)
    framing = len(backbone.frame_crop(prompt.images[0])) - 1
    for case in CASES:
        inserted = 0 if case in WITHOUT_CROP else crop + framing
        lengths = AnswerShape(prefix, len(prompt) - prefix, inserted, n_new - 1)
        floor = (
            lengths.floor(size.n_layers, shape.branch)
            if inserted
            else lengths.baseline(size.n_layers)
        )
        trunk = 0 if case == BASELINE else lengths.rpn(len(rpn.layers))
        prompt_work = floor + trunk - lengths.response * size.n_layers
        # All tokens of a crop are encoded, also those that are dropped behind the encoder.
        share = n_cells / n_image if inserted else 0.0
        least = floor_seconds(plain, lengths, size.n_layers, prompt_work, share)
        ratio = times.ratio(case, BASELINE)
        floor_ratio = least / sum(plain.values())
        row = {
            "ratio": ratio,
            "floor_ratio": floor_ratio,
            "over_floor": ratio / floor_ratio,
            "to_recomputed": times.ratio(case, RECOMPUTED),
        }
        print_row(
            BENCHMARK,
            model=shape.name,
            case=case,
            seconds=times.median(case),
            **row,
            token_layers=work[case].token_layers,
            least_token_layers=floor,
            rpn_token_layers=work[case].rpn_token_layers,
            visual_tokens=n_image,
            crop_tokens=crop if inserted else 0,
            prefix=prefix,
            question=len(prompt) - prefix,
            layers=size.n_layers,
            branch=shape.branch,
        )
    for case in (BASELINE, TWO_STAGE, NO_REGION, APART):
        print_row(f"{BENCHMARK}_stages", model=shape.name, case=case, **answers[case].medians())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    size = QUICK if parser.parse_args().quick else FULL
    for shape in shapes(size):
        with tempfile.TemporaryDirectory() as folder:
            measure(shape, size, Path(folder))


if __name__ == "__main__":
    main()
