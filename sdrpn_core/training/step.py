"""One optimizer step over a global batch, split over micro-batches and processes.

The published loss is the mean over all labeled cells of the *global* batch. A mean of means would
weigh cells by how many neighbors happen to share their micro-batch, so sums are accumulated: each
process adds up the gradients of summed losses, gradients and cell counts are summed over the
processes, and the division comes last. DistributedDataParallel is not used for this: it averages
over the processes and needs a backward pass in each of them, whereas here a process may have
nothing left to do in the last batch of an epoch, and one sum per step is all the communication
there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import reduce

from sdrpn_core.errors import SdrpnError
from sdrpn_core.training.accepted_batches import accepted_batches
from sdrpn_core.training.samples import Item, SkippedSample

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer

    from sdrpn_core.rpn.model import RPN
    from sdrpn_core.training.batches import Batcher
    from sdrpn_core.training.objective import Objective

#: Gradients are summed over the processes in pieces of this many values (256 MiB in float32).
_BUCKET = 2**26


@dataclass
class StepSums:
    """What is added up over micro-batches, processes and steps.

    Attributes:
        counts: what the objective counts.
        loss: summed over what the first count counts.
        samples: images that went through the model.
        skipped: records that could not be used.
    """

    counts: tuple[float, ...]
    loss: float = 0.0
    samples: float = 0.0
    skipped: float = 0.0

    @classmethod
    def zero(cls, objective: Objective) -> StepSums:
        """Nothing added up so far."""
        return cls((0.0,) * len(objective.counts))

    def __iadd__(self, other: StepSums) -> StepSums:
        self.counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        self.loss += other.loss
        self.samples += other.samples
        self.skipped += other.skipped
        return self

    @property
    def n(self) -> float:
        """What the loss is a mean over."""
        return self.counts[0]

    @property
    def mean_loss(self) -> float:
        """Mean over what the first count counts; NaN if that is nothing."""
        return self.loss / self.n if self.n else float("nan")


class TrainingStep:
    """Accumulates, sums over the processes, and updates.

    Args:
        accelerator: of this run.
        rpn: what is trained, in float32; parameters that take no gradient stay as they are.
        objective: what it is trained for.
        batcher: turns samples into a batch.
        optimizer: over the parameters that take a gradient.
        max_grad_norm: limit of the gradient norm, or ``None``.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        rpn: RPN,
        objective: Objective,
        batcher: Batcher,
        optimizer: Optimizer,
        max_grad_norm: float | None,
    ) -> None:
        self.accelerator = accelerator
        self.rpn = rpn
        self.objective = objective
        self.batcher = batcher
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self._parameters = [p for p in rpn.parameters() if p.requires_grad]

    def __call__(self, micro_batches: Iterable[list[Item]], where: str) -> tuple[StepSums, float]:
        """Run one step on this process's micro-batches.

        A global batch without a single label leaves the weights alone.

        Args:
            micro_batches: what this process contributes; may be empty.
            where: the step, for messages.

        Returns:
            Sums over all processes, and the gradient norm before it was limited.

        Raises:
            SdrpnError: the loss or the gradient is NaN or infinite.
        """
        self.optimizer.zero_grad()
        device = self._parameters[0].device
        # Kept on the device: reading each micro-batch's loss would make the GPU wait.
        sums = torch.zeros(3 + len(self.objective.counts), dtype=torch.float32, device=device)
        for items in micro_batches:
            samples = [item for item in items if not isinstance(item, SkippedSample)]
            n_used = 0
            for part in accepted_batches(self.batcher, samples):
                if isinstance(part, SkippedSample):
                    continue
                sums[2:] += self._accumulate(part.batch)
                n_used += len(part.samples)
            sums[0] += n_used
            sums[1] += len(items) - n_used
        samples, skipped, loss, *counts = reduce(sums, "sum").tolist()
        totals = StepSums(tuple(counts), loss, samples, skipped)
        if not totals.n:
            return totals, 0.0
        self._sum_gradients(divisor=totals.n)
        limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, limit))
        if not (torch.tensor([totals.loss, norm]).isfinite().all()):
            raise SdrpnError(
                f"{where}: the loss is {totals.mean_loss:.4g} and the gradient norm "
                f"{norm:.4g}: training diverged; lower the learning rate, or train without mixed "
                "precision"
            )
        self.optimizer.step()
        return totals, norm

    def _accumulate(self, batch: Any) -> torch.Tensor:
        with self.accelerator.autocast():
            predicted = self.objective.predict(self.rpn, batch)
        part = self.objective.loss(self.rpn, predicted.float(), batch)
        # Not `accelerator.backward`: it divides by the launcher's number of accumulation steps, and
        # expects a DeepSpeed engine under that launcher. There is no fp16, so no loss to scale.
        part.loss.backward()
        return torch.cat([part.loss.detach()[None], part.counts.detach()]).float()

    def _sum_gradients(self, divisor: float) -> None:
        for bucket in _buckets(self._parameters):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            if self.accelerator.num_processes > 1:
                flat = reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
                parts = flat.split([p.numel() for p in bucket])
                gradients = [part.view_as(p) for part, p in zip(parts, bucket, strict=True)]
            for parameter, gradient in zip(bucket, gradients, strict=True):
                parameter.grad = gradient.div_(divisor)


def _buckets(parameters: list[torch.nn.Parameter]) -> Iterable[list[torch.nn.Parameter]]:
    bucket: list[torch.nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
