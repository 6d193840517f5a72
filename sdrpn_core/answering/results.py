"""The results of the two passes: pending answers after the first, answers after the second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdrpn_core.crops.policy import CropPlan, Outcome
from sdrpn_core.errors import InputError
from sdrpn_core.util.formatting import short_repr

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from sdrpn_core.answering.prefix import Prefix
    from sdrpn_core.answering.proposer import Proposal
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt


@dataclass(frozen=True)
class Answer:
    """A response, and what led to it.

    Attributes:
        text: the response.
        ids: its token ids, without the end token.
        proposals: one per image: outcome, crops (boxes in source pixels) and RoI map; empty for
            a plain answer.
        n_prompt_tokens: tokens of the prompt, visual ones and crops included.
        n_visual_tokens: visual tokens that the decoder saw, crops included.
        seconds: wall time per stage, in order. Plain: ``vision``, ``prefill``, ``decode`` (and
            ``prefix``, where questions share one). With a proposer: ``vision``, ``prefix`` (all
            layers, up to the last image; for a short question the whole prompt), ``question``
            (for a longer one, up to the branch layer), ``proposal`` (the RPN and the crop
            policy), ``crop`` (cut and encoded), ``roi_prefill`` (crops and question, all layers),
            ``decode``. An answer from a batch gets an equal share of the time of each batch that
            it was part of; a prefix from a
            :class:`~sdrpn_core.answering.prefix_store.PrefixStore` takes no time. On an
            accelerator a stage ends when its work is queued, so that its time may show up in a
            later one: see :func:`~sdrpn_core.runtime.clock.synchronized_stages`. The sum is right
            either way.
        confidence: how sure the model is of the response: the smallest probability of one of its
            tokens by its own logits, the end token left out. Known where it was asked for
            (``confidence_threshold`` of :func:`~sdrpn_core.answering.answer.answer_batch`); else
            ``None``.
    """

    text: str
    ids: tuple[int, ...]
    proposals: tuple[Proposal, ...]
    n_prompt_tokens: int
    n_visual_tokens: int
    seconds: Mapping[str, float]
    confidence: float | None = None

    @classmethod
    def from_ids(
        cls,
        backbone: Backbone,
        prompt: Prompt,
        ids: tuple[int, ...],
        proposals: tuple[Proposal, ...],
        seconds: Mapping[str, float],
    ) -> Answer:
        """The answer whose response has these token ids.

        Args:
            backbone: the model; decodes the ids.
            prompt: what was answered, crops included.
            ids: of the response, without the end token.
            proposals: one per image; empty for a plain answer.
            seconds: wall time per stage.
        """
        text = backbone.tokenizer.decode(ids, skip_special_tokens=True).strip()
        geometries = prompt.geometries if proposals else ()
        placed = tuple(
            replace(proposal, geometry=geometry)
            for proposal, geometry in zip(proposals, geometries, strict=True)
        )
        return cls(text, ids, placed, len(prompt), prompt.n_visual_tokens, seconds)

    def __repr__(self) -> str:
        facts = (
            f"outcome={self.outcome}, boxes={short_repr(self.boxes)}" if self.proposals else "plain"
        )
        sure = "" if self.confidence is None else f", confidence={self.confidence:.3g}"
        return f"Answer({short_repr(self.text)}, {facts}{sure})"

    @property
    def outcome(self) -> Outcome | None:
        """What became of all images; ``None`` for a plain answer.

        ``ok`` if any was cropped, ``less_sure`` if one was and the plain answer stayed, else the
        first image's outcome.
        """
        outcomes = [proposal.plan.outcome for proposal in self.proposals]
        for one in (Outcome.OK, Outcome.LESS_SURE):
            if one in outcomes:
                return one
        return outcomes[0] if outcomes else None

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Crop boxes, source pixels, half-open: one list, image by image.

        Where the question has several images, ``proposals[index].boxes`` are those of one.
        """
        return [box for proposal in self.proposals for box in proposal.boxes]

    def overlay(
        self,
        image: str | Path | bytes | Image.Image,
        *,
        index: int | None = None,
        captions: Sequence[str] = (),
    ) -> Image.Image:
        """Draw the heatmap and the boxes on an image of the question, and the crops beside it.

        Args:
            image: path, bytes or image.
            index: which of the question's images it is, from 0; needed if there are several.
            captions: lines below, such as question and answer.

        Raises:
            ImageError: the image cannot be read.
            InputError: it has another size than the image of that index, the answer is a plain one,
                the question has no such image, or several, and no index is given.
        """
        if not self.proposals:
            raise InputError("a plain answer has no regions to draw")
        count = len(self.proposals)
        if index is None and count > 1:
            raise InputError(f"the question has {count} images: say which by index, from 0")
        index = index or 0
        if not 0 <= index < count:
            raise InputError(f"no image {index}: the question has {count}, from 0")
        return self.proposals[index].overlay(image, captions)


@dataclass(frozen=True, eq=False)
class PendingAnswer:
    """A question between its two passes; it may take the second one together with any others.

    Attributes:
        prompt: what is to be answered, crops included.
        prefix: the beginning of the prompt, as far as it has run; ``None`` if nothing has.
        n_reused: how many of the prefix's first tokens keep their keys and values.
        proposals: one per image; empty for a plain answer.
        prefill_stage: name in ``Answer.seconds`` of the pass that is still to come.
        seconds: wall time per stage so far, that of ``plain`` left out.
        plain: the answer without crops, if it has been given already.
        compares: whether that one stays where the model is surer of it.
    """

    prompt: Prompt
    prefix: Prefix | None
    n_reused: int
    proposals: tuple[Proposal, ...]
    prefill_stage: str
    seconds: Mapping[str, float]
    plain: Answer | None = None
    compares: bool = True

    def settled(self, found: Answer) -> Answer:
        """The answer of the second pass, or the plain one if that is to stay.

        Args:
            found: what the second pass has answered.
        """
        plain = self.plain
        if plain is None:
            return found
        found = replace(found, seconds=_sum_of(plain.seconds, found.seconds))
        before, after = plain.confidence or 0.0, found.confidence or 0.0
        if not self.compares or found.ids == plain.ids or after >= before:
            return found
        reason = f"it is surer ({before:.2f}) than the answer with crops ({after:.2f})"
        less_sure = CropPlan(Outcome.LESS_SURE, reason=reason)
        return replace(
            found,
            text=plain.text,
            ids=plain.ids,
            confidence=plain.confidence,
            proposals=tuple(
                replace(one, plan=less_sure) if one.plan.crops else one for one in found.proposals
            ),
        )

    @property
    def lengths(self) -> tuple[int, int]:
        """Number of tokens that are reused, and of those that still have to run."""
        return self.n_reused, len(self.prompt) - self.n_reused


def _sum_of(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}
