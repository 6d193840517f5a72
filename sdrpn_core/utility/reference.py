"""What a crop is judged by: the reference response of a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.crops.budget import check_budget
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.util.whole_numbers import check_count
from sdrpn_core.utility.defaults import DEFAULT_MAX_NEW_TOKENS

if TYPE_CHECKING:
    from sdrpn_core.answering.prefix_store import PrefixStore
    from sdrpn_core.answering.proposer import Proposer
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.question import Question
    from sdrpn_core.data.record import Record

__all__ = ["Reference", "ReferenceKind"]


class ReferenceKind(str, Enum):
    """Where reference responses come from."""

    OWN = "own"
    """The record's response if it has one, else the backbone's own answer: at
    ``Reference.n_tokens`` visual tokens, or else with the RPN's crop."""
    ANSWER = "answer"
    """The first accepted answer of the record."""


@dataclass(frozen=True)
class Reference:
    """How reference responses are made.

    Attributes:
        kind: where they come from.
        n_tokens: visual tokens per image for the backbone's own answers, in families of dynamic
            resolution: more than the run itself gives it. ``None``: its answers with the RPN's
            crop, the closest look that a fixed resolution allows.
        max_new_tokens: max new tokens per generated response.

    Raises:
        ConfigError: ``n_tokens`` for given answers, or a number below 1.
    """

    kind: ReferenceKind = ReferenceKind.OWN
    n_tokens: int | None = None
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS

    def __post_init__(self) -> None:
        if self.n_tokens is not None and self.kind is not ReferenceKind.OWN:
            raise ConfigError("visual tokens of the reference are for the backbone's own answers")
        check_count(self.max_new_tokens, "max_new_tokens")
        check_budget(self.n_tokens, "the reference's visual tokens")

    def check(self, backbone: Backbone, proposer: Proposer | None) -> None:
        """Refuse what the backbone cannot give.

        Args:
            backbone: the model.
            proposer: as for :meth:`ids`.

        Raises:
            ConfigError: a resolution of a family whose resolution is fixed, or neither that nor a
                proposer to take a closer look with.
        """
        backbone.check_dynamic_resolution("reference tokens", self.n_tokens)
        if self.kind is ReferenceKind.OWN and self.n_tokens is None and proposer is None:
            raise ConfigError(
                "a reference must know more than the plain answer: give an RPN, more visual tokens "
                "for the reference, or take the records' answers"
            )

    def ids(
        self,
        backbone: Backbone,
        proposer: Proposer | None,
        records: Sequence[Record],
        questions: Sequence[Question],
        store: PrefixStore | None = None,
    ) -> list[tuple[int, ...] | InputError]:
        """The token ids of each record's reference response, or why there is none.

        Args:
            backbone: the model.
            proposer: for the backbone's own answers with a crop; ``None`` without an RPN.
            records: the records.
            questions: the same, with opened images.
            store: gets the prefixes of the backbone's own answers, unless their images have other
                visual tokens than those of the questions.
        """
        found: dict[int, tuple[int, ...] | InputError] = {}
        asked: list[int] = []
        for place, record in enumerate(records):
            text = record.response if self.kind is ReferenceKind.OWN else record.answer
            if text is not None:
                found[place] = tuple(backbone.tokenize_response(text))
            elif self.kind is ReferenceKind.ANSWER:
                found[place] = InputError("the record has no answer to judge by")
            else:
                asked.append(place)
        answers = answer_batch(
            backbone,
            [questions[place] for place in asked],
            proposer if self.n_tokens is None else None,
            store=store if self.n_tokens is None else None,
            first_look_tokens=self.n_tokens,
            max_new_tokens=self.max_new_tokens,
        )
        found.update(zip(asked, (answer.ids for answer in answers), strict=True))
        return [found[place] for place in range(len(records))]

    def facts(self) -> dict[str, Any]:
        """What decides the references, as plain JSON values for the manifest."""
        return {
            "kind": self.kind.value,
            "n_tokens": self.n_tokens,
            "max_new_tokens": self.max_new_tokens,
        }
