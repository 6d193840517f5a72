"""Sweeps: one method with several values of an option; what is equal among them runs once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sdrpn_bench.cost import Cost, CostMeter
from sdrpn_bench.method import Method
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.prefill import Prefill, prefill
from sdrpn_core.answering.prefix_store import UNLIMITED_BYTES, PrefixStore
from sdrpn_core.answering.proposer import FoundMap, MapProposer, Proposal, Proposer
from sdrpn_core.answering.pruning import may_be_pruned
from sdrpn_core.cli.option_values import parse_options
from sdrpn_core.errors import ConfigError
from sdrpn_core.runtime.clock import StageClock

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_bench.method import MethodContext
    from sdrpn_core.answering.results import Answer
    from sdrpn_core.backbone.question import Question
    from sdrpn_core.data.record import Record

Answered = tuple["list[Answer]", Cost]
"""The answers of a batch, and each one's share of the cost."""


@dataclass(frozen=True)
class Sweep:
    """Values of one option of one method.

    Attributes:
        method: its name.
        option: the name of the option.
        values: the values, in order.
    """

    method: str
    option: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(set(self.values)) < len(self.values) or not self.values:
            raise ConfigError(f"sweep {self.method}.{self.option}: give distinct values")

    def variants(self, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The options of each variant, by the variant's name.

        Args:
            options: of the method apart from the swept one.
        """
        return {
            f"{self.method}[{self.option}={value}]": {**options, self.option: value}
            for value in self.values
        }


def parse_sweep(text: str) -> Sweep:
    """Read ``METHOD.KEY=V1,V2,...``; values are JSON, and text where they are not.

    Raises:
        ConfigError: another form, or a value that is given twice.
    """
    key, separator, values = text.partition("=")
    method, dot, option = key.strip().partition(".")
    words = [word.strip() for word in values.split(",") if word.strip()]
    if not (separator and dot and method and option and words):
        raise ConfigError(f"sweep {text!r}: write METHOD.KEY=V1,V2,...")
    parsed = [parse_options([f"{option}={word}"], "sweep")[option] for word in words]
    return Sweep(method, option, tuple(parsed))


def sweep_of(name: str) -> str:
    """What the names of a sweep's variants have in common; of any other method, its name."""
    return name.partition("=")[0]


def base_of(name: str) -> str:
    """The method that a variant is one of; of any other method, its name."""
    return name.partition("[")[0]


def answer_alike(
    context: MethodContext,
    methods: Sequence[Method],
    records: Sequence[Record],
    images: Sequence[tuple[Image.Image, ...]],
) -> list[Answered]:
    """Answer a batch by several variants of a method.

    Where only the crop policy differs, prefixes and maps are computed once. Each variant's cost is
    still that of the whole: the shared part counts for all of them. Another first look is another
    prefix. Methods that answer their own way share nothing.

    Args:
        context: the model and the run's settings.
        methods: the variants; or a single method.
        records: the batch.
        images: per record its images.

    Returns:
        Per variant its answers and their cost.
    """
    if len(methods) > 1 and all(type(one).answer is Method.answer for one in methods):
        proposers = [method.proposer(context, records) for method in methods]
        alike = [one for one in proposers if isinstance(one, MapProposer)]
        asked = [method.questions(records, images) for method in methods]
        if (
            len(alike) == len(methods)
            and all(_same_maps(alike[0], one) for one in alike[1:])
            and all(one == asked[0] for one in asked[1:])
        ):
            return _share_maps(context, alike, asked[0])
    return [_alone(context, method, records, images) for method in methods]


def _alone(
    context: MethodContext,
    method: Method,
    records: Sequence[Record],
    images: Sequence[tuple[Image.Image, ...]],
) -> Answered:
    with CostMeter(context, records) as meter:
        answers = method.answer(context, records, images)
    if len(answers) != len(records):
        raise ConfigError(
            f"{type(method).__name__} gave {len(answers)} answers to {len(records)} questions"
        )
    return answers, meter.share


def _same_maps(one: MapProposer, other: MapProposer) -> bool:
    """Whether two proposers differ in nothing but their policies."""
    if type(one) is not type(other):
        return False
    own, others = ({**vars(each), "policy": None} for each in (one, other))
    return own.keys() == others.keys() and all(
        own[key] is others[key] or own[key] == others[key] for key in own
    )


def _share_maps(
    context: MethodContext, proposers: Sequence[MapProposer], questions: Sequence[Question]
) -> list[Answered]:
    store = PrefixStore(UNLIMITED_BYTES)
    clock = StageClock(context.backbone.device)
    with CostMeter(context, questions) as first_pass:
        state = prefill(context.backbone, questions, proposers[0].reader, store=store, clock=clock)
        with clock.stage("proposal"):
            # Some policies ask for scores by all tokens of the question, and others do without.
            wanted = [_n_wanted(proposer, state) for proposer in proposers]
            found = proposers[wanted.index(max(wanted))].find(state)
    results = []
    for proposer in proposers:
        with CostMeter(context, questions) as second_pass:
            answers = answer_batch(
                context.backbone,
                questions,
                _KnownMaps(proposer, found),
                store=store,
                max_new_tokens=context.max_new_tokens,
            )
        shares = clock.shares(len(questions))
        timed = [replace(one, seconds=_sum(shares, one.seconds)) for one in answers]
        results.append((timed, first_pass.share + second_pass.share))
    return results


def _n_wanted(proposer: MapProposer, state: Prefill) -> int:
    """For how many images the policy reads the scores by all tokens of the question."""
    wanted = may_be_pruned(proposer.policy)
    return sum(
        wanted(number, geometry.grid)
        for prompt in state.prompts
        for number, geometry in enumerate(prompt.geometries)
    )


def _sum(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    names = dict.fromkeys((*first, *second))
    return {name: first.get(name, 0.0) + second.get(name, 0.0) for name in names}


class _KnownMaps(Proposer):
    """Crops what a proposer's policy finds in maps that were read before."""

    def __init__(self, proposer: MapProposer, found: Sequence[FoundMap]) -> None:
        self.reader = proposer.reader
        self._proposer = proposer
        self._found = found

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        return self._proposer.plan(state, self._found)
