"""The first look: prefixes that have run, and the questions that follow them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.backbone import Question
from sdrpn_core.cache_argument import cache_argument
from sdrpn_core.feature_tap import Features, FeatureTap
from sdrpn_core.generation import prompt_block
from sdrpn_core.kv_rows import join_cache
from sdrpn_core.length_buckets import DEFAULT_MAX_PADDING
from sdrpn_core.prefix import Prefix, PrefixReader, prefix_block, run_prefixes
from sdrpn_core.prefix_store import PrefixKey, PrefixStore, prefix_keys
from sdrpn_core.rpn.model import PicturePlace
from sdrpn_core.stage_clock import StageClock

if TYPE_CHECKING:
    from transformers import DynamicCache

    from sdrpn_core.backbone import Backbone
    from sdrpn_core.batching import Block
    from sdrpn_core.segments import Prompt


#: Length of questions, relative to their prefixes, up to which one pass over both is worth it.
#: Longer ones cost more in the layers behind the branch than a pass of their own does.
_SHORT = 1 / 8


@dataclass(frozen=True, eq=False)
class Prefill:
    """Questions of which the part up to the last picture has run, or all.

    Attributes:
        backbone: the model.
        questions: what was asked, with the pictures.
        prompts: the same, encoded.
        prefixes: per question what has run; questions about the same pictures share one.
        prefix: the prefixes, left-padded.
        clock: books the time of what follows.
    """

    backbone: Backbone
    questions: Sequence[Question]
    prompts: Sequence[Prompt]
    prefixes: Sequence[Prefix]
    prefix: Block
    clock: StageClock

    def readings(self, reader: PrefixReader) -> list[Any]:
        """Per question what a reader kept of its prefix's branch features.

        Raises:
            RuntimeError: the prefixes ran without it.
        """
        if any(prefix.reader is not reader for prefix in self.prefixes):
            raise RuntimeError("the prefixes were not read by this reader: give it to prefill()")
        return [prefix.reading for prefix in self.prefixes]

    def cache(self, n_layers: int | None = None) -> DynamicCache:
        """A new cache that holds just the prefixes, left-padded like ``prefix``.

        Args:
            n_layers: of the first layers only; default: of all.
        """
        return join_cache([prefix.keys_values for prefix in self.prefixes], n_layers=n_layers)

    @property
    def n_left(self) -> int:
        """Tokens that follow the prefix, of the question with the most; 0 if all have run whole."""
        pairs = zip(self.prompts, self.prefixes, strict=True)
        return max(len(prompt) - len(prefix) for prompt, prefix in pairs)

    def rest(self) -> Block:
        """What follows each prefix, left-padded."""
        return prompt_block(
            self.backbone, self.prompts, starts=[len(prefix) for prefix in self.prefixes]
        )

    @torch.no_grad()
    def question_features(self, branch: int) -> Features | None:
        """What reaches layer ``branch`` of the tokens that follow the prefixes.

        They run through layers 0 .. B - 1 only. ``None`` where nothing follows.
        """
        if not self.n_left:
            return None
        with self.clock.stage("question"), FeatureTap(self.backbone.decoder, branch) as tap:
            rest = self.rest()
            return tap.run(
                inputs_embeds=rest.embeds,
                attention_mask=torch.cat([self.prefix.mask, rest.mask], dim=1),
                position_ids=rest.positions,
                use_cache=True,
                **cache_argument(self.cache(branch)),
            )

    def places(
        self, with_question: Callable[[tuple[int, int]], bool] | None = None
    ) -> list[PicturePlace]:
        """Where the pictures lie in the prefixes and what follows, side by side, by prompt.

        Args:
            with_question: says for which grids all tokens of the question are to score, and not the
                last one alone; default: for none.
        """
        length = self.prefix.length + self.n_left

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


@torch.no_grad()
def prefill(
    backbone: Backbone,
    questions: Sequence[Question],
    reader: PrefixReader | None = None,
    *,
    whole: bool = False,
    store: PrefixStore | None = None,
    max_padding: float = DEFAULT_MAX_PADDING,
    clock: StageClock | None = None,
) -> Prefill:
    """Encode questions and run their prefixes; each distinct prefix runs once.

    Args:
        backbone: the model.
        questions: a batch, one or more.
        reader: reads the branch features of the prefixes, e.g. an RPN.
        whole: where the questions are short beside their prefixes, and no prefix is kept or shared,
            run them together. One long pass takes less time than a long and a short one.
        store: prefixes of earlier questions; new ones are added to it.
        max_padding: largest share of padding where prefixes run together.
        clock: books the time.

    Raises:
        ConfigError: the backbone was loaded in part, or the store is another backbone's.
        InputError: an empty question, or a prompt beyond the model's context.
    """
    backbone.check_whole("answering")
    if store is not None:
        store.bind(backbone)
    clock = clock or StageClock(backbone.device)
    cut = [_cut(backbone, question) for question in questions]
    keys = prefix_keys(
        [ids for ids, _ in cut], [q.images for q in questions], stored=store is not None
    )
    # Which question's prefix each one shares; most often its own.
    owners: dict[PrefixKey | int, int] = {}
    shared = [
        owners.setdefault(index if key is None else key, index) for index, key in enumerate(keys)
    ]
    found = {owner: _find(store, keys[owner], reader) for owner in owners.values()}
    missing = [owner for owner, prefix in found.items() if prefix is None]
    if missing:
        with clock.stage("vision"):
            prompts = backbone.encode_ids(
                [cut[owner][0] for owner in missing],
                [Question("", questions[owner].images) for owner in missing],
            )
        if whole and store is None and _are_short(prompts, cut):
            prompts = [
                prompt.followed_by(rest) for prompt, (_, rest) in zip(prompts, cut, strict=True)
            ]
            cut = [(ids + list(rest), ()) for ids, rest in cut]
        backbone.check_context(max(map(len, prompts)))
        with clock.stage("prefix"):
            new = run_prefixes(backbone, prompts, reader, max_padding=max_padding, clock=clock)
        for owner, made in zip(missing, new, strict=True):
            found[owner] = made
            key = keys[owner]
            if store is not None and key is not None:
                store.put(key, made)
    prefixes = [prefix for owner in shared if (prefix := found[owner]) is not None]
    prompts = [
        prefix.prompt.followed_by(rest) for prefix, (_, rest) in zip(prefixes, cut, strict=True)
    ]
    backbone.check_context(max(map(len, prompts)))
    return Prefill(backbone, questions, prompts, prefixes, prefix_block(prefixes), clock)


def _cut(backbone: Backbone, question: Question) -> tuple[list[int], tuple[int, ...]]:
    """The prompt's ids up to the last picture (without one: the first), and those that follow."""
    ids = backbone.tokenize(question.text, len(question.images))
    places = [place for place, token in enumerate(ids) if token == backbone.image_token_id]
    stop = places[-1] + 1 if places else 1
    return ids[:stop], tuple(ids[stop:])


def _are_short(
    prefixes: Sequence[Prompt], cut: Sequence[tuple[list[int], tuple[int, ...]]]
) -> bool:
    """Whether each question has a prefix of its own, and is short beside it."""
    if len(prefixes) < len(cut):
        return False
    return sum(len(rest) for _, rest in cut) <= _SHORT * sum(map(len, prefixes))


def _find(
    store: PrefixStore | None, key: PrefixKey | None, reader: PrefixReader | None
) -> Prefix | None:
    return None if store is None or key is None else store.get(key, reader)
