"""Benchmark methods: ways to answer a batch of questions.

A new method is one short file. One that chooses crops for the two-stage answer::

    @dataclass(frozen=True)
    class LeftHalf(Method):
        def proposer(self, context, records):
            return MyProposer()  # any sdrpn_core Proposer; None gives the plain answer

One that answers in another way overrides ``answer`` instead. Either is registered by
``registry.add("left", "my_package.left:LeftHalf", help="...")`` in the hook
``sdrpn_register_methods``. The fields of the dataclass are the method's options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from sdrpn_bench.defaults import DEFAULT_MAX_NEW_TOKENS
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.backbone.question import Question
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.util.dataclass_reader import read_dataclass

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.answering.proposer import Proposer
    from sdrpn_core.answering.results import Answer
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.data.record import Record
    from sdrpn_core.errors import SdrpnError
    from sdrpn_core.rpn.model import RPN

M = TypeVar("M", bound="Method")


@dataclass(frozen=True)
class MethodContext:
    """What a method can use besides the questions themselves.

    Attributes:
        backbone: the model under test.
        rpn: its RPN, if any.
        seed: the run's seed.
        max_new_tokens: maximum length of an answer.
        earlier: what the method that this one follows (see ``Method.follows``) gave for the same
            records, in order: an answer, or why there is none. Empty if it follows none.
    """

    backbone: Backbone
    rpn: RPN | None = None
    seed: int = 0
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    earlier: Sequence[Answer | SdrpnError] = field(default=(), repr=False)

    @property
    def recipe(self) -> LabelRecipe:
        """The label recipe: the one that the RPN was trained with, else the preset's first.

        Raises:
            ConfigError: there is neither.
        """
        if self.rpn is not None and self.rpn.config.recipe is not None:
            return LabelRecipe.from_dict(self.rpn.config.recipe)
        return self.backbone.preset.recipe()

    @property
    def policy(self) -> tuple[str, dict[str, Any]]:
        """Name and options of the crop policy: the RPN's, else the preset's, else the default."""
        source = self.backbone.find_preset() if self.rpn is None else self.rpn.config
        if source is None:
            return RPNConfig.policy, {}
        return source.policy, dict(source.policy_options)


@dataclass(frozen=True)
class Method:
    """A way to answer: a frozen dataclass whose fields are the method's options.

    A subclass overrides :meth:`proposer` or :meth:`answer`; as it stands, it gives plain answers.
    """

    #: Whether the method requires a trained RPN; models without one are not served.
    needs_rpn: ClassVar[bool] = False
    #: Whether the method requires records with boxes.
    needs_boxes: ClassVar[bool] = False
    #: Whether the method knows the truth, so that it is no rival of the others.
    is_control: ClassVar[bool] = False

    @property
    def follows(self) -> str | None:
        """The method that has to answer first, because this one depends on its answers."""
        return None

    def unserved(self, context: MethodContext) -> str | None:
        """Why the method cannot be offered for this model, as a short phrase; ``None`` if it can.

        Asked once per model, before anything is answered. The other models of the run are not
        affected, and the report gives the reason.
        """
        return None

    def proposer(self, context: MethodContext, records: Sequence[Record]) -> Proposer | None:
        """Make the proposer for a batch; called once per batch, inside the measured time.

        Args:
            context: the model and the run's settings.
            records: the batch, in the order of the questions that the proposer will get.

        Returns:
            A proposer, or ``None`` for the plain answer.
        """
        return None

    def answer(
        self,
        context: MethodContext,
        records: Sequence[Record],
        images: Sequence[tuple[Image.Image, ...]],
    ) -> list[Answer]:
        """Answer a batch; by default in two stages, with what :meth:`proposer` proposes.

        Everything that runs in here is the method's cost.

        Args:
            context: the model and the run's settings.
            records: the batch.
            images: per record its opened images (RGB, upright).

        Returns:
            One answer per record, in order.

        Raises:
            InputError: a record cannot be answered: alone it counts as wrong, and a batch is then
                answered record by record.
        """
        return answer_batch(
            context.backbone,
            self.questions(records, images),
            self.proposer(context, records),
            max_new_tokens=context.max_new_tokens,
        )

    def questions(
        self, records: Sequence[Record], images: Sequence[tuple[Image.Image, ...]]
    ) -> list[Question]:
        """The questions of the records, with their images."""
        return [
            Question(record.question, shown) for record, shown in zip(records, images, strict=True)
        ]

    def tuned(self: M, threshold: float, context: MethodContext) -> M:
        """The method with a threshold that was published for the model and the dataset.

        By default the method itself, which has no use for it.

        Args:
            threshold: of the RoI map.
            context: the model.
        """
        return self

    def options(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_options(cls: type[M], options: Mapping[str, Any]) -> M:
        """The method with these options, the others at their defaults.

        Raises:
            ConfigError: unknown option (names the near ones).
        """
        return read_dataclass(cls, options, cls.__name__)
