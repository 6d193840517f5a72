"""What labeling costs, beside the answers that it reads and beside the published way of reading.

    python benchmarks/label_cost.py [--quick]

A LLaVA-shaped model with random weights in float32 answers a batch of questions, all answers of one
length, or is given answers of that length:

- plain answers: batched generate() alone;
- labels: the same answers, with the attention tap on the recipe's heads (three grounding heads of
  one layer, all heads of a sink layer, at the depths published for LLaVA-1.5);
- labels, all attention kept: stock eager attention that returns every layer's, which is then
  averaged to the same maps. Maps that differ are an error;
- labels, as published: the same, one question at a time;
- plain answers, one at a time: what that is compared with, generate() alone on eager attention;
- given answers, all layers: one pass over question and answer, tapped, through all layers;
- given answers: the same, which stops after the deepest tapped layer;
- given answers, features: the same and the branch features, as in training without stored labels.

``ratio_to`` names what a row's ratios are to, ``to_published`` is time over that of the labels as
published. Times are taken in turns. Memory is the peak of a process of its own: ``working`` beyond
the loaded model and the encoded images, ``extra`` that less the working memory of the case that
ratios are to. One JSON line per case; full size takes about six minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from random_llava import PATCH, write_random_llava
from side_by_side import in_fork, in_turns, noise_images, peak_memory_of, print_row, question_of

from sdrpn_core import AttentionTap, Backbone, LabelRecipe, Question, load_backbone
from sdrpn_core.backbone.prompt import Prompt
from sdrpn_core.runtime.generation import generate, prompt_block
from sdrpn_core.taps.response_attention import (
    Map,
    read_given_responses,
    read_given_responses_and_features,
    read_own_responses,
    recipe_heads,
    recipe_maps,
)

BENCHMARK = "label_cost"
PLAIN, TAPPED, KEPT, ONE_BY_ONE, PUBLISHED = OWN = (
    "plain answers",
    "labels",
    "labels, all attention kept",
    "plain answers, one at a time",
    "labels, as published",
)
WHOLE, STOPPED, FEATURES = GIVEN = (
    "given answers, all layers",
    "given answers",
    "given answers, features",
)
CASES = (*OWN, *GIVEN)
#: What a case is compared with.
COMPARED_WITH = {
    **dict.fromkeys((PLAIN, TAPPED, KEPT), PLAIN),
    **dict.fromkeys((ONE_BY_ONE, PUBLISHED), ONE_BY_ONE),
    **dict.fromkeys(GIVEN, WHOLE),
}
#: float32 through several layers, in another order of summation.
TOLERANCE = {"rtol": 1e-3, "atol": 1e-6}

Maps = list[tuple[Map, Map]]


@dataclass(frozen=True)
class Size:
    """How large everything is; layers take the shares of L that they have in the 7B model."""

    n_layers: int = 16
    width: int = 512
    grid: int = 24
    branch: int = 7
    grounding_layer: int = 7
    sink_layer: int = 1
    batch: int = 8
    question: int = 14
    response: int = 32
    rounds: int = 3

    @property
    def recipe(self) -> LabelRecipe:
        """Which heads are read."""
        return LabelRecipe(
            grounding={self.grounding_layer: (0, 1, 3)}, sink={self.sink_layer: "all"}
        )


FULL = Size()
QUICK = Size(
    n_layers=6,
    width=256,
    grid=6,
    branch=3,
    grounding_layer=2,
    batch=2,
    question=6,
    response=4,
    rounds=1,
)


class Labeling:
    """A loaded model with encoded questions, and the cases that run on them.

    Args:
        folder: of the model.
        size: how large everything is.
        case: the one that will run; decides the attention implementation.
    """

    def __init__(self, folder: Path, size: Size, case: str) -> None:
        attention = "eager" if case in (KEPT, ONE_BY_ONE, PUBLISHED) else "sdpa"
        self.size = size
        self.heads = recipe_heads(size.recipe)
        self.backbone: Backbone = load_backbone(folder, device="cpu", attn_implementation=attention)
        # No answer ends before the limit.
        self.backbone.model.generation_config.eos_token_id = None
        side = PATCH * size.grid
        response = tuple(range(100, 100 + size.response)) if case in GIVEN else ()
        self.prompts: Sequence[Prompt] = self.backbone.encode(
            [
                replace(Question.about(image, question_of(size.question)), response_ids=response)
                for image in noise_images(size.batch, (side, side))
            ]
        )
        self.run: Callable[[], object] = {
            PLAIN: self.plain,
            TAPPED: self.tapped,
            KEPT: self.kept,
            ONE_BY_ONE: self.one_by_one,
            PUBLISHED: self.published,
            WHOLE: self.whole,
            STOPPED: self.stopped,
            FEATURES: self.features,
        }[case]

    def plain(self, prompts: Sequence[Prompt] | None = None) -> list[tuple[int, ...]]:
        """The answers."""
        return generate(
            self.backbone,
            prompt_block(self.backbone, prompts or self.prompts),
            max_new_tokens=self.size.response,
        )

    def one_by_one(self) -> list[tuple[int, ...]]:
        """The answers, one question at a time."""
        return [ids for prompt in self.prompts for ids in self.plain([prompt])]

    def tapped(self) -> Maps:
        """Grounding and sink maps of the answers, as the label stage reads them."""
        readings = read_own_responses(
            self.backbone, self.prompts, self.heads, max_new_tokens=self.size.response
        )
        return [recipe_maps(self.size.recipe, reading.maps[0]) for reading in readings]

    def published(self) -> Maps:
        """The same, one by one."""
        return [pair for prompt in self.prompts for pair in self.kept([prompt])]

    @torch.no_grad()
    def kept(self, prompts: Sequence[Prompt] | None = None) -> Maps:
        """The same from the attention of all layers, heads, queries and keys."""
        prompts = prompts or self.prompts
        block = prompt_block(self.backbone, prompts)
        output = self.backbone.model.generate(
            inputs_embeds=block.embeds,
            attention_mask=block.mask,
            position_ids=block.positions,
            max_new_tokens=self.size.response,
            do_sample=False,
            pad_token_id=0,
            output_attentions=True,
            return_dict_in_generate=True,
        )
        maps = []
        for row, prompt in enumerate(prompts):
            ((start, stop),) = prompt.image_spans
            by_layer = {}
            for layer, heads in self.heads.items():
                chosen = slice(None) if heads is None else heads
                # The first step is the prompt; the rows are those of the tokens that are fed back.
                rows = [step[layer][row, chosen, 0, start:stop] for step in output.attentions[1:]]
                mean = torch.stack(rows).mean(dim=0)
                by_layer[layer] = mean.unflatten(1, prompt.images[0].grid).numpy()
            maps.append(recipe_maps(self.size.recipe, by_layer))
        return maps

    @torch.no_grad()
    def whole(self) -> None:
        """Given answers, with no stop behind the tapped layers."""
        block = prompt_block(self.backbone, self.prompts)
        ((start, stop),) = self.prompts[0].image_spans
        keys = torch.arange(start, stop)
        rows = slice(block.length - self.size.response, None)
        with AttentionTap(self.backbone.decoder, self.heads, queries=rows, keys=keys) as tap:
            self.backbone.decoder(
                inputs_embeds=block.embeds,
                attention_mask=block.mask,
                position_ids=block.positions,
                use_cache=False,
            )
        for layer in self.heads:
            tap.weights(layer).mean(dim=2)

    def stopped(self) -> None:
        """Given answers, as the label stage reads them."""
        read_given_responses(self.backbone, self.prompts, self.heads)

    def features(self) -> None:
        """Given answers, as training without a label run reads them."""
        read_given_responses_and_features(self.backbone, self.prompts, self.heads, self.size.branch)


def check_agreement(found: Maps, expected: Maps) -> None:
    """Both ways read the same maps, or the comparison of their costs means nothing."""
    for pair, other in zip(found, expected, strict=True):
        for one, two in zip(pair, other, strict=True):
            np.testing.assert_allclose(one, two, **TOLERANCE)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    size = QUICK if parser.parse_args().quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_fork(
            lambda: write_random_llava(
                folder, n_layers=size.n_layers, width=size.width, grid=size.grid
            )
        )
        memory = {
            case: peak_memory_of(lambda case=case: Labeling(folder, size, case).run)
            for case in CASES
        }
        loaded = {case: Labeling(folder, size, case) for case in CASES}
        for reference in (loaded[KEPT].kept(), loaded[PUBLISHED].published()):
            check_agreement(loaded[TAPPED].tapped(), reference)
        times = in_turns({case: labeling.run for case, labeling in loaded.items()}, size.rounds)
    for case in CASES:
        to = COMPARED_WITH[case]
        print_row(
            BENCHMARK,
            case=case,
            ratio_to=to,
            seconds=times.median(case),
            ratio=times.ratio(case, to),
            spread=times.spread(case, to),
            to_published=times.ratio(case, PUBLISHED) if case in OWN else None,
            peak_memory_bytes=memory[case].peak,
            memory_ratio=memory[case].peak / memory[to].peak,
            working_memory_bytes=memory[case].working,
            working_memory_ratio=memory[case].working / memory[to].working,
            extra_memory_bytes=memory[case].working - memory[to].working,
            layers=size.n_layers,
            visual_tokens=size.grid**2,
            batch=size.batch,
            response_tokens=size.response,
        )


if __name__ == "__main__":
    main()
