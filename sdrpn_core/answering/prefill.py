"""The state after the first pass: prefixes that have run, and the questions that follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.answering.encoding import EncodedQuestions, encode_questions, split_ids
from sdrpn_core.answering.prefix import Prefix, PrefixReader, prefix_block, run_prefixes
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import ConfigError
from sdrpn_core.runtime.block import ImagePlace, image_places
from sdrpn_core.runtime.buckets import DEFAULT_MAX_PADDING
from sdrpn_core.runtime.clock import StageClock
from sdrpn_core.runtime.generate_options import batches_without_padding
from sdrpn_core.runtime.generation import columns_needed, prompt_block
from sdrpn_core.runtime.kv_cache import join_cache
from sdrpn_core.taps.feature_tap import Features, FeatureTap

if TYPE_CHECKING:
    from transformers import Cache

    from sdrpn_core.answering.prefix_store import PrefixStore
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.runtime.block import Block, WantsQuestion


@dataclass(frozen=True, eq=False)
class Prefill:
    """Questions whose prompts have run up to the last image, or completely.

    Attributes:
        backbone: the model.
        questions: the questions, with their images.
        prompts: the same, encoded.
        prefixes: per question the part that has run; questions about the same images share one.
        prefix: the prefixes, left-padded.
        clock: times what follows.
    """

    backbone: Backbone
    questions: Sequence[Question]
    prompts: Sequence[Prompt]
    prefixes: Sequence[Prefix]
    prefix: Block
    clock: StageClock

    def readings(self, reader: PrefixReader) -> list[Any]:
        """Per question what a reader kept of the branch features of its prefix.

        Raises:
            RuntimeError: the prefixes were not read by it.
        """
        if any(prefix.reader is not reader for prefix in self.prefixes):
            raise RuntimeError("the prefixes were not read by this reader: give it to prefill()")
        return [prefix.reading for prefix in self.prefixes]

    def cache(self, n_layers: int | None = None) -> Cache:
        """Make a new cache that holds the prefixes, left-padded like ``prefix``.

        Args:
            n_layers: how many of the first layers; default: all.
        """
        return join_cache([prefix.keys_values for prefix in self.prefixes], n_layers=n_layers)

    @property
    def n_left(self) -> int:
        """Largest number of tokens behind a prefix; 0 if all prompts have run completely."""
        pairs = zip(self.prompts, self.prefixes, strict=True)
        return max(len(prompt) - len(prefix) for prompt, prefix in pairs)

    def prompt_asking(self, index: int, text: str) -> Prompt:
        """The prompt of another question about the same images, which begins with the same prefix.

        Args:
            index: of the question whose images and prefix they are.
            text: what is asked instead.

        Raises:
            InputError: the text is empty.
            ConfigError: the prompt puts the text before an image, so that prefixes depend on it.
        """
        own = self.questions[index]
        before, behind = split_ids(self.backbone, Question(text, own.images))
        if before != split_ids(self.backbone, own)[0]:
            raise ConfigError(
                f"the prompt of {self.backbone.name} puts text of the question before an image: "
                "questions about the same images cannot share their prefix"
            )
        return self.prefixes[index].prompt.followed_by(behind)

    def rest(self) -> Block:
        """The tokens behind each prefix, left-padded.

        Raises:
            ValueError: they differ in number, for a decoder that takes padding there for tokens:
                see :meth:`parts`.
        """
        if len(self.parts()) > 1:
            raise ValueError("only the parts of these questions can go on together")
        return prompt_block(
            self.backbone, self.prompts, starts=[len(prefix) for prefix in self.prefixes]
        )

    def parts(self) -> list[tuple[list[int], Prefill]]:
        """The indices and the questions of batches that the decoder can go on with.

        All questions are one batch, unless the decoder counts columns: then only what has equally
        many tokens left can run together, as there must be no padding behind a prefix.
        """
        if not self.backbone.has_windows:
            return [(list(range(len(self.prompts))), self)]
        lengths = [
            len(prompt) - len(prefix)
            for prompt, prefix in zip(self.prompts, self.prefixes, strict=True)
        ]
        groups = [
            [index for index, length in enumerate(lengths) if length == wanted]
            for wanted in dict.fromkeys(lengths)
        ]
        return [(group, self.part(group)) for group in groups]

    def parts_to_answer(self) -> list[tuple[list[int], Prefill]]:
        """As :meth:`parts`, of batches that can be answered.

        Where the model's generation config reads prompts, padding would be read as well.
        """
        pairs = zip(self.prompts, self.prefixes, strict=True)
        lengths = [(len(prefix), len(prompt) - len(prefix)) for prompt, prefix in pairs]
        groups = batches_without_padding(self.backbone, lengths)
        return self.parts() if groups is None else [(group, self.part(group)) for group in groups]

    def part(self, indices: Sequence[int]) -> Prefill:
        """Some of the questions, in this order."""
        prefixes = [self.prefixes[index] for index in indices]
        return replace(
            self,
            questions=[self.questions[index] for index in indices],
            prompts=[self.prompts[index] for index in indices],
            prefixes=prefixes,
            prefix=prefix_block(prefixes),
        )

    @torch.no_grad()
    def question_features(self, branch: int) -> Features | None:
        """Branch features of the tokens behind the prefixes; ``None`` if there are none.

        They run through layers 0 .. B - 1 only.
        """
        if not self.n_left:
            return None
        with self.clock.stage("question"), FeatureTap(self.backbone.decoder, branch) as tap:
            rest = self.rest()
            return tap.run(**rest.model_inputs(self.cache(branch), prefix=self.prefix))

    def places(self, wants_question: WantsQuestion | None = None) -> list[ImagePlace]:
        """Where the images lie in the prefixes and what follows them, prompt by prompt.

        Args:
            wants_question: see :func:`~sdrpn_core.runtime.block.image_places`.
        """
        return image_places(
            self.prompts, self.prefix, n_following=self.n_left, wants_question=wants_question
        )


@torch.no_grad()
def run_encoded(
    encoded: EncodedQuestions,
    reader: PrefixReader | None,
    *,
    store: PrefixStore | None,
    max_padding: float,
    clock: StageClock,
    max_new_tokens: int | None = None,
) -> Prefill:
    """Run the prefixes of encoded questions, each distinct one once.

    Args:
        encoded: the questions.
        reader: reads the branch features of the prefixes.
        store: prefixes of earlier questions; new ones are added to it.
        max_padding: largest share of padding where prefixes run together.
        clock: times the stages.
        max_new_tokens: of the answers, if each prefix serves one alone; ``None`` if not.

    Raises:
        InputError: a prompt exceeds the model's context.
    """
    backbone = encoded.backbone
    found = dict(encoded.stored)
    if encoded.prefixes:
        missing = list(encoded.prefixes.values())
        backbone.check_context(max(map(len, missing)))
        n_behind = None
        if max_new_tokens is not None:
            longest = max(len(rest) for _, rest in encoded.split_ids)
            n_behind = columns_needed(longest, max_new_tokens)
        with clock.stage("prefix"):
            new = run_prefixes(
                backbone,
                missing,
                reader,
                max_padding=max_padding,
                clock=clock,
                n_behind=n_behind,
            )
        for owner, made in zip(encoded.prefixes, new, strict=True):
            found[owner] = made
            key = encoded.keys[owner]
            if store is not None and key is not None:
                store.put(key, made)
    prefixes = [found[owner] for owner in encoded.owners]
    prompts = [
        prefix.prompt.followed_by(rest)
        for prefix, (_, rest) in zip(prefixes, encoded.split_ids, strict=True)
    ]
    backbone.check_context(max(map(len, prompts)))
    return Prefill(backbone, encoded.questions, prompts, prefixes, prefix_block(prefixes), clock)


def prefill(
    backbone: Backbone,
    questions: Sequence[Question],
    reader: PrefixReader | None = None,
    *,
    store: PrefixStore | None = None,
    max_padding: float = DEFAULT_MAX_PADDING,
    clock: StageClock | None = None,
) -> Prefill:
    """Encode questions and run their prefixes; each distinct prefix runs once.

    Args:
        backbone: the model.
        questions: a batch, one or more.
        reader: reads the branch features of the prefixes, e.g. an RPN.
        store: prefixes of earlier questions; new ones are added to it.
        max_padding: largest share of padding where prefixes run together.
        clock: times the stages.

    Raises:
        ConfigError: the backbone is only partially loaded, or the store belongs to another one.
        InputError: an empty question, or a prompt that exceeds the model's context.
    """
    clock = clock or StageClock(backbone.device)
    encoded = encode_questions(backbone, questions, reader, store=store, clock=clock)
    return run_encoded(encoded, reader, store=store, max_padding=max_padding, clock=clock)
