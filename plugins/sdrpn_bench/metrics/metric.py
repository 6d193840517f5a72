"""What a metric is.

A new one is one short file::

    @dataclass(frozen=True)
    class FirstWord(Metric):
        name: ClassVar[str] = "first_word"

        def score(self, prediction, record):
            return float(prediction.split()[:1] == record.answers[0].split()[:1])

registered by ``registry.add("first_word", "my_package.first_word:FirstWord", help="...")`` in the
hook ``sdrpn_register_metrics``. The fields of the dataclass are the metric's options.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from sdrpn_core.errors import InputError
from sdrpn_core.util.dataclass_reader import read_dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdrpn_core.data.record import Record

    Counts = Mapping[str, NDArray[Any]]
    """Numbers by name: sums over items, one per resample."""

M = TypeVar("M", bound="Metric")


@dataclass(frozen=True)
class Metric(ABC):
    """A way to score answers: a frozen dataclass whose fields are the metric's options.

    The accuracy of a method is the mean of its scores. A metric with other totals, such as F1,
    implements :meth:`counts` and :meth:`aggregate` as well.
    """

    #: What results, reports and messages call it: the name under which it is registered.
    name: ClassVar[str]

    def check(self, record: Record) -> None:
        """Refuse a record that no answer could be scored on; the default asks for an answer.

        Raises:
            InputError: says what the record lacks.
        """
        if not record.answers:
            raise InputError(f"record {record.id!r} has no answer, which {self.name!r} needs")

    @abstractmethod
    def score(self, prediction: str, record: Record) -> float:
        """How right a prediction is, from 0 to 1.

        Args:
            prediction: the model's response.
            record: what was asked; :meth:`check` has accepted it.
        """

    def counts(self, prediction: str, record: Record) -> dict[str, float]:
        """What one item adds to the sums that :meth:`aggregate` gets; the same names for all."""
        return {}

    def aggregate(self, sums: Counts) -> Counts:
        """Totals besides the mean score, each from 0 to 1.

        Args:
            sums: of :meth:`counts` over items; arrays of any one shape. Any may be 0, since items
                are resampled.

        Returns:
            Total by name, each an array of that shape.
        """
        return {}

    def options(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_options(cls: type[M], options: Mapping[str, Any]) -> M:
        """The metric with these options, the others at their defaults.

        Raises:
            ConfigError: unknown option (names the near ones), or one of the wrong type.
        """
        return read_dataclass(cls, options, cls.__name__)
