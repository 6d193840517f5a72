"""The shared first step of a two-stage answer: the prefix, once through all layers, kept.

The causal mask leaves everything up to the end of the last picture unchanged by the question and by
the crops, so its KV cache and its branch features serve the proposal and the answer alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from sdrpn_core.feature_tap import Features, FeatureTap
from sdrpn_core.generation import prompt_block
from sdrpn_core.rpn.model import PicturePlace

if TYPE_CHECKING:
    from sdrpn_core.backbone import Backbone, Question
    from sdrpn_core.batching import Block
    from sdrpn_core.segments import Prompt


@dataclass(frozen=True)
class Prefill:
    """Prompts whose prefixes lie in a KV cache.

    Attributes:
        backbone: the model.
        questions: what was asked, with the pictures.
        prompts: the same, encoded.
        prefix: the cached tokens, left-padded.
        cache: their keys and values, all layers.
        features: what reached the branch layer; ``None`` if no branch was tapped.
        branch: that layer.
    """

    backbone: Backbone
    questions: Sequence[Question]
    prompts: Sequence[Prompt]
    prefix: Block
    cache: DynamicCache
    features: Features | None
    branch: int | None

    def rest(self) -> Block:
        """What follows each prefix, left-padded."""
        return prompt_block(
            self.backbone, self.prompts, starts=[p.prefix_length for p in self.prompts]
        )

    def question_features(self) -> list[Features]:
        """Branch features of the whole prompts: those of the prefix, then those of the rest.

        The rest runs through layers 0 .. B - 1 only, and is trimmed from the cache afterwards.
        """
        if self.features is None or self.branch is None:
            raise RuntimeError("the prefill was made without a branch layer")
        rest = self.rest()
        with torch.no_grad(), FeatureTap(self.backbone.decoder, self.branch) as tap:
            features = tap.run(
                inputs_embeds=rest.embeds,
                attention_mask=torch.cat([self.prefix.mask, rest.mask], dim=1),
                position_ids=rest.positions,
                past_key_values=self.cache,
                use_cache=True,
            )
        for layer in self._cache_layers[: self.branch]:
            layer.crop(-rest.length)
        return [self.features, features]

    def places(
        self, with_question: Callable[[tuple[int, int]], bool] | None = None
    ) -> list[PicturePlace]:
        """Where the pictures lie in the features of :meth:`question_features`, prompt by prompt.

        Args:
            with_question: says for which grids all tokens of the question are to score, and not the
                last one alone; default: for none.
        """
        length = self.prefix.length + max(len(p) - p.prefix_length for p in self.prompts)

        def question(prompt: Prompt, grid: tuple[int, int]) -> int | None:
            wanted = with_question is not None and with_question(grid)
            return length - (len(prompt) - prompt.prefix_length) if wanted else None

        return [
            PicturePlace(
                row, start + int(offset), image.grid, length - 1, question(prompt, image.grid)
            )
            for row, (prompt, offset) in enumerate(
                zip(self.prompts, self.prefix.starts, strict=True)
            )
            for (start, _), image in zip(prompt.image_spans, prompt.images, strict=True)
        ]

    def trim(self, length: int | None = None) -> None:
        """Drop everything after the first ``length`` columns (default: the prefix) from the cache.

        Every layer is cut to that length, whatever it held before.
        """
        length = self.prefix.length if length is None else length
        for layer in self._cache_layers:
            layer.crop(length - layer.get_seq_length())

    @property
    def _cache_layers(self) -> list[Any]:
        """One layer at a time, as ``DynamicCache.crop`` takes them all to be of one length."""
        return list(self.cache.layers)


@torch.no_grad()
def prefill(
    backbone: Backbone, questions: Sequence[Question], branch: int | None = None
) -> Prefill:
    """Encode questions and run their prefixes through the decoder.

    Args:
        backbone: the model.
        questions: a batch.
        branch: B, to tap its features on the way.

    Raises:
        ConfigError: the backbone was loaded in part.
        InputError: an empty question, or a prompt beyond the model's context.
    """
    prompts = backbone.encode(questions)
    return prefill_prompts(backbone, questions, prompts, branch)


@torch.no_grad()
def prefill_prompts(
    backbone: Backbone,
    questions: Sequence[Question],
    prompts: Sequence[Prompt],
    branch: int | None = None,
) -> Prefill:
    """As :func:`prefill`, for prompts that are encoded already."""
    backbone.check_whole("answering")
    backbone.check_context(max(map(len, prompts)))
    prefix = prompt_block(backbone, prompts, stops=[p.prefix_length for p in prompts])
    cache = DynamicCache(config=backbone.text_config)
    inputs = {
        "inputs_embeds": prefix.embeds,
        "attention_mask": prefix.mask,
        "position_ids": prefix.positions,
        "past_key_values": cache,
        "use_cache": True,
    }
    features = None
    if branch is None:
        backbone.decoder(**inputs)
    else:
        with FeatureTap(backbone.decoder, branch, stop=False) as tap:
            features = tap.run(**inputs)
    return Prefill(backbone, questions, prompts, prefix, cache, features, branch)
