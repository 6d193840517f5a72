"""What a call may be given besides its questions, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdrpn_core.answering.budgets import check_budgets, policy_of
from sdrpn_core.answering.confidence_threshold import check_cascade
from sdrpn_core.answering.prefix_store import PrefixStore
from sdrpn_core.answering.proposer import Proposer
from sdrpn_core.backbone.given import check_backbone
from sdrpn_core.errors import ConfigError
from sdrpn_core.runtime.buckets import check_max_padding
from sdrpn_core.runtime.generate_options import check_options
from sdrpn_core.runtime.streaming import check_streamer
from sdrpn_core.util.whole_numbers import check_count

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone

#: Arguments of what chooses the crops, which a call is not given.
_OF_PROPOSERS = ("rpn", "policy", "policy_options", "gate_threshold")


def check_arguments(
    backbone: Backbone,
    proposer: Proposer | None,
    *,
    store: PrefixStore | None,
    first_look_tokens: int | None,
    confidence_threshold: float | None,
    max_padding: float,
    max_new_tokens: int,
    batch_size: int,
    options: Mapping[str, Any],
) -> None:
    """Check the arguments that ``answer_batch`` and ``answer_stream`` have in common.

    Args:
        backbone: the model.
        proposer: where crops come from.
        store: of prefixes.
        first_look_tokens: of whole images.
        confidence_threshold: see :func:`~sdrpn_core.answering.answer.answer_batch`.
        max_padding: largest share of padding.
        max_new_tokens: upper limit of the response lengths.
        batch_size: how many questions go through the model together at most.
        options: further arguments of ``generate()``.

    Raises:
        ConfigError: one cannot be used; says what to give instead.
    """
    check_backbone(backbone)
    if proposer is not None and not isinstance(proposer, Proposer):
        raise ConfigError(
            f"the proposer must be a Proposer, not {type(proposer).__name__}: write "
            "RPNProposer(rpn), or of a RoIModel its proposer"
        )
    if store is not None and not isinstance(store, PrefixStore):
        raise ConfigError(
            f"store must be a PrefixStore, not {type(store).__name__}: write PrefixStore(), and "
            "give the same to all calls"
        )
    for name in _OF_PROPOSERS:
        if name in options:
            raise ConfigError(
                f"{name} is no argument of this call: give it to the proposer, RPNProposer(rpn, "
                "policy, gate_threshold=...), or to the RoIModel"
            )
    check_count(max_new_tokens, "max_new_tokens")
    check_max_padding(max_padding)
    check_options(backbone.model, options)
    check_streamer(options.get("streamer"), batch_size)
    check_budgets(backbone, policy_of(proposer), first_look_tokens)
    check_cascade(confidence_threshold, has_proposer=proposer is not None, generation=options)
