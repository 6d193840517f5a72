"""What a two-stage answer costs, beside the plain one, the stock one, and the least that it could.

    python benchmarks/answer_cost.py [--quick]

Models with random weights in float32, one shaped like LLaVA-1.5 (576 visual tokens, and as many for
each crop), one like Qwen2.5-VL (1,024, crops by their size), answer one question at a time, all
answers of one length: 8 tokens, the LLaVA-shaped one also 64. It also answers as its preset would,
with the crop policy ``mask``: half of the crop's tokens are dropped before the decoder.

- stock generate(): the model's own ``generate()`` on ids and pixels, preprocessing included;
- plain answer: sdrpn's, without a proposer;
- plain answer, as long: the same with the crop as a second image, so that the prompt is about as
  long as that of the two-stage answer;
- two-stage: the RPN runs, and a fixed box is cropped. The prefix is kept between the two passes;
- recomputed: the same, but the decoder keeps nothing: its first pass runs up to the branch layer,
  the second everything. The image goes through the vision encoder once, as in the published code;
- no region: the RPN runs and finds nothing to crop. The plain answer has begun and goes on;
- no region, apart: the same, but prefix and question run apart from each other, as a store of
  prefixes makes them: first the prefix, then the question to the branch layer, then the question.

Work is counted in token-layers, by hooks, for the decoder and for the RPN's trunk. The floor of an
answer with a crop is prefix x L + question x B + RPN + (crop + question + response) x L; without a
region it is the plain answer and the RPN. What it would take in seconds is estimated from the plain
answer of the same run: what its stages take, scaled by their token-layers (decoding goes token by
token and is taken as it is; a crop's pass through the vision encoder by its share of patches). That
attention costs more with every token before it is not in the floor.

``to_plain``, ``to_stock`` and ``to_recomputed`` are measured times over those of the case that they
name, ``spread`` the quartiles of the first over the rounds. ``least`` is the floor's time over the
plain answer's, ``over_least`` the measured time over the floor's. ``per_token_to_longer`` divides
the time of a token behind the first by that of the plain answer that is as long. Medians of rounds
that take the cases in turns. One JSON line per case, one with the seconds of each stage.

Full size takes about fourteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fixed_crop import FixedCrop
from PIL import Image
from random_llava import PATCH, write_random_llava
from random_qwen2_5_vl import CELL, write_random_qwen2_5_vl
from side_by_side import in_turns, noise_images, print_row, question_of
from stock_answer import StockAnswer

from sdrpn_core import RPN, Answer, Backbone, PrefixStore, Question, answer_batch, load_backbone
from sdrpn_core.answering.crop_encoding import encode_crops
from sdrpn_core.answering.prefill import Prefill
from sdrpn_core.answering.proposer import Proposal
from sdrpn_core.answering.token_layers import AnswerShape, TokenLayerCounter
from sdrpn_core.rpn.prediction import predict_prompt_roi
from sdrpn_core.runtime.clock import StageClock, synchronized_stages
from sdrpn_core.runtime.generation import generate, prompt_block

BENCHMARK = "answer_cost"
STOCK, PLAIN, LONGER, TWO_STAGE, RECOMPUTED, NO_REGION, APART = CASES = (
    "stock generate()",
    "plain answer",
    "plain answer, as long",
    "two-stage",
    "recomputed",
    "no region",
    "no region, apart",
)
WITH_CROP = (TWO_STAGE, RECOMPUTED)
WITH_RPN = (*WITH_CROP, NO_REGION, APART)
#: Those whose stages are shown.
STAGED = (PLAIN, TWO_STAGE, NO_REGION, APART)
QUESTION_TOKENS = 20


@dataclass(frozen=True)
class Shape:
    """A model and an image; B and R take the shares of L that they have in the 7B models."""

    name: str
    write: Callable[..., None]
    side: int
    branch: int
    rope: bool
    new_tokens: tuple[int, ...]
    half: bool = False


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    n_layers: int
    width: int
    cells: tuple[int, int]
    rpn_layers: int
    new_tokens: tuple[int, ...]
    rounds: int


FULL = Size(16, 768, (24, 32), rpn_layers=2, new_tokens=(8, 64), rounds=7)
QUICK = Size(4, 256, (4, 4), rpn_layers=1, new_tokens=(2, 3), rounds=1)


def shapes(size: Size) -> list[Shape]:
    """What is measured."""
    llava, qwen = size.cells
    padded_square = Shape(
        "LLaVA-1.5",
        partial(write_random_llava, grid=llava),
        PATCH * llava,
        branch=size.n_layers * 15 // 32,
        rope=False,
        new_tokens=size.new_tokens,
    )
    dynamic = Shape(
        "Qwen2.5-VL",
        write_random_qwen2_5_vl,
        CELL * qwen,
        branch=size.n_layers * 16 // 28,
        rope=True,
        new_tokens=size.new_tokens[:1],
    )
    masked = replace(
        padded_square, name="LLaVA-1.5, mask", half=True, new_tokens=size.new_tokens[:1]
    )
    return [padded_square, masked, dynamic]


def recomputed(
    backbone: Backbone, rpn: RPN, question: Question, proposals: Sequence[Proposal], n_new: int
) -> dict[str, float]:
    """Both passes of the decoder from scratch; the crop is known. Returns seconds per stage."""
    clock = StageClock(backbone.device)
    with clock.stage("before"):
        (prompt,) = backbone.encode([question])
        predict_prompt_roi(backbone, [prompt], rpn)
        jobs = [(image, one.plan) for image, one in zip(question.images, proposals, strict=True)]
        crops = tuple(
            tuple(part for segment in segments for part in backbone.frame_crop(segment))
            for _, segments in encode_crops(backbone, jobs)
        )
        block = prompt_block(backbone, [prompt.with_crops(crops)])
    generate(backbone, block, max_new_tokens=n_new, min_new_tokens=n_new, clock=clock)
    return clock.seconds


def crop_cells(backbone: Backbone, crops: Sequence[Image.Image]) -> int:
    """How many visual tokens the encoder makes of the crops."""
    grids = [backbone.preprocess_crop(crop).geometry.grid for crop in crops]
    return sum(rows * columns for rows, columns in grids)


class KeepsStages(list[Mapping[str, float]]):
    """The seconds per stage of a case, run by run; the last stage is ``decode``."""

    def ask(self, run: Callable[[], Mapping[str, float]]) -> None:
        """Run once more."""
        self.append(run())

    def medians(self) -> dict[str, float]:
        """Median seconds per stage."""
        return {stage: statistics.median(one[stage] for one in self) for stage in self[0]}

    def first_token(self) -> float:
        """Median seconds up to the first token."""
        return statistics.median(sum(one.values()) - one["decode"] for one in self)

    def decoding_ratio(self, other: KeepsStages) -> float:
        """Median over the rounds of the ratio of what all other tokens take."""
        pairs = zip(self, other, strict=True)
        return statistics.median(one["decode"] / two["decode"] for one, two in pairs)


def floor_seconds(
    plain: Mapping[str, float], shape: AnswerShape, n_layers: int, work: int, crop_share: float
) -> float:
    """What so many token-layers take at the plain answer's speed; decoding is added as it is."""
    per_token_layer = plain["prefill"] / ((shape.prefix + shape.question) * n_layers)
    return plain["vision"] * (1 + crop_share) + per_token_layer * work + plain["decode"]


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
    for n_new in shape.new_tokens:
        measure_length(backbone, rpn, shape, size, n_new)


def measure_length(backbone: Backbone, rpn: RPN, shape: Shape, size: Size, n_new: int) -> None:
    """Measure answers of one length and print their rows."""
    (image,) = noise_images(1, (shape.side, shape.side))
    question = Question.about(image, question_of(QUESTION_TOKENS))
    options = {"max_new_tokens": n_new, "min_new_tokens": n_new}
    cropping = FixedCrop(rpn, half=shape.half)
    proposals: list[Proposal] = []

    class Noted(FixedCrop):
        """Remembers what was cropped, for the cases that are to crop the same."""

        def propose(self, state: Prefill) -> list[list[Proposal]]:
            found = super().propose(state)
            proposals[:] = found[0]
            return found

    def ask(
        proposer: FixedCrop | None, *, about: Question = question, apart: bool = False
    ) -> Answer:
        store = PrefixStore() if apart else None
        with synchronized_stages():
            return answer_batch(backbone, [about], proposer, store=store, **options)[0]

    def seconds(*args: Any, **kwargs: Any) -> Mapping[str, float]:
        return ask(*args, **kwargs).seconds

    plain, cropped = ask(None), ask(Noted(rpn, half=shape.half))
    crops = [image.crop(box) for box in cropped.boxes]
    longer = Question.about([image, *crops], question.text)
    run: dict[str, Callable[[], Mapping[str, float]]] = {
        STOCK: StockAnswer(backbone, question, options).seconds,
        PLAIN: partial(seconds, None),
        LONGER: partial(seconds, None, about=longer),
        TWO_STAGE: partial(seconds, cropping),
        RECOMPUTED: partial(recomputed, backbone, rpn, question, proposals, n_new),
        NO_REGION: partial(seconds, FixedCrop(rpn, None)),
        APART: partial(seconds, FixedCrop(rpn, None), apart=True),
    }
    if shape.half:  # no image has so many tokens
        del run[LONGER]
    spent = {case: KeepsStages() for case in run}
    work = {}
    for case in run:  # for the first time, which allocates
        with TokenLayerCounter(backbone, rpn) as work[case]:
            run[case]()
    times = in_turns(
        {case: partial(spent[case].ask, run[case]) for case in run}, size.rounds, warm_up=False
    )
    (prompt,) = backbone.encode([question])
    n_prompt = {case: len(prompt) for case in CASES} | {
        LONGER: ask(None, about=longer).n_prompt_tokens,
        **dict.fromkeys(WITH_CROP, cropped.n_prompt_tokens),
    }
    prefix = prompt.prefix_length
    stages = spent[PLAIN].medians()
    n_image = plain.n_visual_tokens
    crop = cropped.n_visual_tokens - n_image
    for case in run:
        lengths = AnswerShape(prefix, len(prompt) - prefix, n_prompt[case] - len(prompt), n_new - 1)
        floor = (
            lengths.floor(size.n_layers, shape.branch)
            if case in WITH_CROP
            else lengths.baseline(size.n_layers)
        )
        trunk = lengths.rpn(len(rpn.layers)) if case in WITH_RPN else 0
        prompt_work = floor + trunk - lengths.response * size.n_layers
        # All tokens of a crop are encoded, also those that are dropped behind the encoder.
        share = crop_cells(backbone, crops) / n_image if case in WITH_CROP else 0.0
        least = floor_seconds(stages, lengths, size.n_layers, prompt_work, share)
        to_plain, least_to_plain = times.ratio(case, PLAIN), least / sum(stages.values())
        has_floor = case != LONGER  # which is another question
        is_as_long = LONGER in run and case in (LONGER, *WITH_CROP)
        print_row(
            BENCHMARK,
            model=shape.name,
            answer_tokens=n_new,
            case=case,
            seconds=times.median(case),
            to_plain=to_plain,
            spread=times.spread(case, PLAIN),
            to_stock=times.ratio(case, STOCK),
            to_recomputed=times.ratio(case, RECOMPUTED),
            least=least_to_plain if has_floor else None,
            over_least=to_plain / least_to_plain if has_floor else None,
            first_token=spent[case].first_token(),
            per_token=spent[case].medians()["decode"] / (n_new - 1),
            per_token_to_longer=(spent[case].decoding_ratio(spent[LONGER]) if is_as_long else None),
            token_layers=work[case].token_layers,
            least_token_layers=floor if has_floor else None,
            rpn_token_layers=work[case].rpn_token_layers,
            prompt_tokens=n_prompt[case],
            visual_tokens=n_image,
            crop_tokens=crop if case in WITH_CROP else 0,
            prefix=prefix,
            question=len(prompt) - prefix,
            layers=size.n_layers,
            branch=shape.branch,
        )
    for case in STAGED:
        print_row(
            f"{BENCHMARK}_stages",
            model=shape.name,
            answer_tokens=n_new,
            case=case,
            **spent[case].medians(),
        )


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
