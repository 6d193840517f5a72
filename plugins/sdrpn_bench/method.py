"""Benchmark methods: ways to choose the crops for a batch of questions.

A new method is one short file::

    @dataclass(frozen=True)
    class LeftHalf(Method):
        def proposer(self, context, records):
            return MyProposer()  # any sdrpn_core Proposer; None gives the plain answer

registered by ``registry.add("left", "my_package.left:LeftHalf", help="...")`` in the hook
``sdrpn_register_methods``. The fields of the dataclass are the method's options.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from sdrpn_bench.defaults import DEFAULT_MAX_NEW_TOKENS
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.util.dataclass_reader import read_dataclass

if TYPE_CHECKING:
    from sdrpn_core.answering.proposer import Proposer
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.data.record import Record
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
    """

    backbone: Backbone
    rpn: RPN | None = None
    seed: int = 0
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS

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
        """Name and options of the crop policy: the RPN's, else those of the backbone's preset.

        Raises:
            ConfigError: there is neither.
        """
        source = self.backbone.preset if self.rpn is None else self.rpn.config
        return source.policy, dict(source.policy_options)


@dataclass(frozen=True)
class Method(ABC):
    """A way to answer: a frozen dataclass whose fields are the method's options."""

    #: Whether the method requires a trained RPN.
    needs_rpn: ClassVar[bool] = False
    #: Whether the method requires records with boxes.
    needs_boxes: ClassVar[bool] = False

    @abstractmethod
    def proposer(self, context: MethodContext, records: Sequence[Record]) -> Proposer | None:
        """Make the proposer for a batch; called once per batch, inside the measured time.

        Args:
            context: the model and the run's settings.
            records: the batch, in the order of the questions that the proposer will get.

        Returns:
            A proposer, or ``None`` for the plain answer.
        """

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
