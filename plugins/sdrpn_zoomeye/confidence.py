"""How confident the model is about views of an image: one short pass each, behind the prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from transformers import LogitsProcessor

from sdrpn_core.answering.crop_encoding import encode_crops
from sdrpn_core.answering.prefix import prefix_block
from sdrpn_core.crops.policy import Crop, CropPlan, Outcome
from sdrpn_core.errors import ConfigError
from sdrpn_core.runtime.buckets import DEFAULT_MAX_PADDING, buckets
from sdrpn_core.runtime.generate_options import reads_prompts
from sdrpn_core.runtime.generation import generate, prompt_block
from sdrpn_core.runtime.kv_cache import join_cache
from sdrpn_core.runtime.logits import block_logits

if TYPE_CHECKING:
    from transformers import Cache

    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt, Segment
    from sdrpn_core.grid.geometry import Box
    from sdrpn_core.runtime.block import Block
    from sdrpn_zoomeye.search import Aspect

Kind = Literal["yes_no", "answer"]
"""``yes_no`` (published): how much more likely Yes is than No, as the next token. ``answer``: how
likely the least certain token of the model's own answer is, for models that cannot say Yes."""

#: What is asked about the whole image, and about a crop of it; as published, in other words.
_EXISTENCE = "Is there a {{}} in {}? Answer Yes or No."
_LATENT = (
    "From what {} shows, and by common sense: might a {{}} be found by zooming in further? "
    "Answer Yes or No."
)
_ANSWERING = "Question: {}\nIs what can be seen enough to answer the question? Answer Yes or No."
_WHOLE = "the image"
_PART = "the zoomed-in part of the image"
_TEXTS: Mapping[Aspect, tuple[str, str]] = {
    "existence": (_EXISTENCE.format(_WHOLE), _EXISTENCE.format(_PART)),
    "latent": (_LATENT.format(_WHOLE), _LATENT.format(_PART)),
    "answering": (_ANSWERING, _ANSWERING),
}

#: What a response begins with; the second pair is for vocabularies without capitals.
_WORDS = (("Yes", "No"), ("yes", "no"))

#: Views go through the model together, at least so many where there are as many.
_MIN_BATCH = 4


@dataclass(frozen=True)
class View:
    """A question to the model about a part of an image.

    Attributes:
        index: of the prompt whose image it is.
        box: the part in source pixels; ``None`` for the whole image alone.
        aspect: what is asked.
        about: the cue or the question.
    """

    index: int
    box: Box | None
    aspect: Aspect
    about: str


class Viewer:
    """Computes confidences for questions whose prefixes have run.

    A crop follows the image as in the two-stage answer, so that only the crop's tokens and the
    question run; the published prompt shows the image again, with the part outlined.

    Args:
        state: the questions, with one image each.
        kind: of the confidence.
        max_new_tokens: limit of the answers, for ``answer``.
    """

    def __init__(self, state: Prefill, kind: Kind, max_new_tokens: int) -> None:
        self._state = state
        self._kind = kind
        self._max_new_tokens = max_new_tokens
        self._crops: dict[tuple[int, Box], tuple[Segment, ...]] = {}
        #: One view may be asked for under several aspects.
        self._known: dict[View, float] = {}

    def confidences(self, views: Sequence[View]) -> list[float]:
        """Confidences from -1 to 1, in order."""
        asked = [self._asked(view) for view in views]
        new = [view for view in dict.fromkeys(asked) if view not in self._known]
        self._encode(new)
        prompts = [self._prompt(view) for view in new]
        prefixes = [self._state.prefixes[view.index] for view in new]
        lengths = [
            (len(prefix), len(prompt) - len(prefix))
            for prefix, prompt in zip(prefixes, prompts, strict=True)
        ]
        size = max(len(self._state.prompts), _MIN_BATCH)
        backbone = self._state.backbone
        max_padding, holes = DEFAULT_MAX_PADDING, not backbone.has_windows
        if self._kind == "answer" and reads_prompts(backbone.model.generation_config, {}):
            max_padding, holes = 0.0, False
        for batch in buckets(lengths, size, max_padding, holes=holes) if new else ():
            values = self._run([prompts[i] for i in batch], [new[i].index for i in batch])
            self._known.update(zip((new[i] for i in batch), values, strict=True))
        return [self._known[view] for view in asked]

    def _asked(self, view: View) -> View:
        """The view as it is put to the model."""
        if self._kind == "yes_no":
            return view
        return View(view.index, view.box, "answering", self._state.questions[view.index].text)

    def _prompt(self, view: View) -> Prompt:
        crop = () if view.box is None else self._crops[view.index, view.box]
        text = view.about
        if self._kind == "yes_no":
            text = _TEXTS[view.aspect][bool(crop)].format(view.about)
        return self._state.prompt_asking(view.index, text).with_crops((crop,))

    def _encode(self, views: Sequence[View]) -> None:
        """Encode the crops that are seen for the first time, together."""
        backbone = self._state.backbone
        wanted = {(view.index, view.box): None for view in views if view.box is not None}
        places = [(index, box) for index, box in wanted if (index, box) not in self._crops]
        jobs = []
        for index, box in places:
            (image,), (geometry,) = (
                self._state.questions[index].images,
                self._state.prompts[index].geometries,
            )
            crop = Crop(box, geometry.covering_cells(box))
            jobs.append((image, CropPlan(Outcome.OK, (crop,))))
        # A crop that the model cannot encode shows nothing more than the image.
        for place, (_, segments) in zip(places, encode_crops(backbone, jobs), strict=True):
            self._crops[place] = tuple(
                part for segment in segments for part in backbone.frame_crop(segment)
            )

    def _run(self, prompts: Sequence[Prompt], indices: Sequence[int]) -> list[float]:
        backbone = self._state.backbone
        prefixes = [self._state.prefixes[index] for index in indices]
        rest = prompt_block(backbone, prompts, starts=[len(prefix) for prefix in prefixes])
        backbone.check_context(max(map(len, prompts)))
        cache = join_cache([prefix.keys_values for prefix in prefixes])
        before = prefix_block(prefixes)
        if self._kind == "yes_no":
            logits = block_logits(backbone, rest, before, cache, keep=1)[:, -1]
            likely = logits[:, list(yes_no_ids(backbone))].float().softmax(dim=-1)[:, 0]
        else:
            likely = self._certainty_of_answers(rest, before, cache)
        return (2 * likely - 1).tolist()

    def _certainty_of_answers(self, rest: Block, before: Block, cache: Cache) -> torch.Tensor:
        """Per row the probability of the least certain token of its greedy answer."""
        recorder = _Certainty()
        answers = generate(
            self._state.backbone,
            rest,
            prefix=before,
            cache=cache,
            max_new_tokens=self._max_new_tokens,
            logits_processor=[recorder],
        )
        steps = torch.stack(recorder.steps, dim=1)
        # The token that ends an answer is a part of it.
        return torch.stack(
            [row[: len(answer) + 1].amin() for row, answer in zip(steps, answers, strict=True)]
        )


class _Certainty(LogitsProcessor):
    """Records the probability of the most likely token at each step."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(scores.float().softmax(dim=-1).amax(dim=-1))
        return scores


def yes_no_ids(backbone: Backbone) -> tuple[int, int]:
    """The tokens of Yes and No as responses begin with them.

    Raises:
        ConfigError: the vocabulary has no tokens for them.
    """
    for words in _WORDS:
        ids = [backbone.tokenize_response(word) for word in words]
        known = (len(one) == 1 and one[0] != backbone.tokenizer.unk_token_id for one in ids)
        if all(known):
            (yes,), (no,) = ids
            return yes, no
    raise ConfigError(f"the vocabulary of {backbone.name} has no tokens for Yes and No")
