"""What a training run optimizes: its data, the RPN that it starts from, and a loss.

The loop, the checkpoints, the log and the distribution over processes are the same for every
objective. A loss is a sum over what the objective counts (labeled cells, questions ...), so that
sums over micro-batches and processes add up to that of the global batch; the step divides once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sdrpn_core.training.settings import TrainingSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.rpn.model import RPN
    from sdrpn_core.training.sources import TrainingSource


@dataclass(frozen=True, eq=False)
class BatchLoss:
    """The loss of a micro-batch, as sums.

    Attributes:
        loss: scalar with a gradient, summed over what the first count counts.
        counts: ``(len(Objective.counts),)``, one number for each of the objective's counts.
    """

    loss: torch.Tensor
    counts: torch.Tensor


class Objective(ABC):
    """One thing to train an RPN for.

    Attributes:
        name: what the command line calls it.
        counts: what a micro-batch counts, as the log calls it. The loss is the mean over the first;
            a global batch in which that is 0 leaves the weights alone.
        unit: one of the first count, for messages.
        remedy: what to check if a run finds none, for messages.
        defaults: training settings that differ from the backbone's preset.
    """

    name: ClassVar[str]
    counts: ClassVar[tuple[str, ...]]
    unit: ClassVar[str]
    remedy: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def source(self, backbone: Backbone, data: Any, settings: TrainingSettings) -> TrainingSource:
        """What is trained on.

        Args:
            backbone: the frozen model.
            data: what :func:`~sdrpn_core.training.stage.train` was given, or one run of several.
            settings: of the run.

        Raises:
            SdrpnError: the data are of another kind, or of another backbone.
        """

    @abstractmethod
    def start(self, backbone: Backbone, source: TrainingSource) -> RPN:
        """The RPN that a run starts from, in float32.

        Random numbers come from torch's global generator, which is seeded by the caller: every
        process starts from the same RPN.

        Args:
            backbone: the frozen model.
            source: what is trained on.

        Raises:
            SdrpnError: it cannot be made or read.
        """

    def settings(self, backbone: Backbone, **overrides: Any) -> TrainingSettings:
        """The settings of a run: overrides, else :attr:`defaults`, else the backbone's preset.

        Args:
            backbone: the frozen model; an outline will do.
            overrides: fields.

        Raises:
            ConfigError: unknown fields, values of the wrong type or out of range.
        """
        return TrainingSettings.for_backbone(backbone, **{**self.defaults, **overrides})

    def trained(self, rpn: RPN) -> nn.Module:
        """The part of the RPN whose parameters change; all others are frozen and in eval mode.

        Args:
            rpn: what :meth:`start` made.
        """
        return rpn

    @abstractmethod
    def predict(self, rpn: RPN, batch: Any) -> torch.Tensor:
        """What the RPN makes of a micro-batch; runs under autocast.

        Args:
            rpn: being trained.
            batch: from the source's batcher.
        """

    @abstractmethod
    def loss(self, rpn: RPN, predicted: torch.Tensor, batch: Any) -> BatchLoss:
        """The loss of a micro-batch; runs in float32.

        Args:
            rpn: being trained.
            predicted: what :meth:`predict` returned, in float32.
            batch: from the source's batcher.
        """

    def facts(self, rpn: RPN) -> Mapping[str, Any]:
        """What decides the trained weights besides data, configuration and settings.

        Args:
            rpn: what :meth:`start` made.

        Returns:
            Plain JSON values for the manifest of the run.
        """
        return {}
