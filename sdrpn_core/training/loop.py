"""The loop over optimizer steps: data, learning rate, log and checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch

from sdrpn_core.distributed.processes import progress_bar
from sdrpn_core.errors import SdrpnError
from sdrpn_core.training.batch_loading import load_batches
from sdrpn_core.training.checkpoint_times import CheckpointTimes
from sdrpn_core.training.data_order import DataOrder, MicroBatches
from sdrpn_core.training.samples import EveryEpoch, Item, SizedSamples
from sdrpn_core.training.step import StepSums, TrainingStep

if TYPE_CHECKING:
    from accelerate import Accelerator
    from timm.scheduler.cosine_lr import CosineLRScheduler

    from sdrpn_core.training.checkpoints import Checkpoints
    from sdrpn_core.training.log import TrainingLog
    from sdrpn_core.training.settings import TrainingSettings

#: A run whose first steps have not a single label ends with an error instead of going on for hours.
_MAX_STEPS_WITHOUT_LABELS = 20


@dataclass(frozen=True, eq=False)
class TrainingLoop:
    """Runs the steps of a training run.

    Attributes:
        accelerator: of the run.
        settings: of the run.
        samples: the data set.
        order: of its samples.
        step: one optimizer step.
        schedule: learning rate by step.
        checkpoints: where the state is saved.
        log: where the means are written.
    """

    accelerator: Accelerator
    settings: TrainingSettings
    samples: SizedSamples
    order: DataOrder
    step: TrainingStep
    schedule: CosineLRScheduler
    checkpoints: Checkpoints
    log: TrainingLog

    def run(self, first: int, last: int, *, progress: bool = True) -> StepSums:
        """Run steps ``first`` to ``last`` (exclusive).

        Returns:
            Sums over these steps and all processes.

        Raises:
            SdrpnError: training diverged, no sample has a label, or something cannot be written.
        """
        plan = MicroBatches(
            self.order,
            first,
            last,
            self.settings.micro_batch_size,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        workers = self.settings.workers(
            self.accelerator.num_processes, self.accelerator.device.type
        )
        batches = load_batches(EveryEpoch(self.samples), plan, workers)
        totals = StepSums.zero(self.step.objective)
        # An optimizer has a state once it made a step, for which it takes a label.
        is_labeled = bool(self.step.optimizer.state)
        times = CheckpointTimes(self.settings.checkpoint_every, last)
        done = first
        with progress_bar(progress, total=last, initial=first, desc="train", unit="step") as bar:
            for number in range(first, last):
                done = number + 1
                totals += self._run_step(number, last, islice(batches, len(plan.of_step(number))))
                is_labeled = is_labeled or bool(totals.n)
                if is_labeled:  # before, an untrained RPN would be saved as if it were trained
                    self._save_if_due(done, times)
                elif done - first >= _MAX_STEPS_WITHOUT_LABELS:
                    break
                bar.update()
                bar.set_postfix(loss=f"{self.log.last_loss:.4f}", refresh=False)
        if not is_labeled:
            raise self._nothing_to_learn(first, done, totals)
        return totals

    def _run_step(self, number: int, last: int, batches: Iterator[list[Item]]) -> StepSums:
        settings = self.settings
        done = number + 1
        self.schedule.step_update(number)
        # Seeded by the step, so that a resumed run draws what an uninterrupted one would.
        torch.manual_seed(_step_seed(settings.seed, number, self.accelerator.process_index))
        sums, norm = self.step(batches, f"step {done}")
        self.log.add(sums)
        if done % settings.log_every == 0 or done == last:
            self.log.write(
                done,
                epoch=round(done / self.order.steps_per_epoch, 4),
                learning_rate=self.step.optimizer.param_groups[0]["lr"],
                gradient_norm=norm,
            )
        return sums

    def _save_if_due(self, done: int, times: CheckpointTimes) -> None:
        # By the main process's clock alone: the others take no part in it.
        if self.accelerator.is_main_process and times.is_due(done):
            self.checkpoints.save(done, self.step.rpn, self.step.optimizer)
            times.saved()

    def _nothing_to_learn(self, first: int, done: int, totals: StepSums) -> SdrpnError:
        objective = self.step.objective
        seen = f"the first {int(totals.samples + totals.skipped)} samples"
        if first:  # those before were another session's
            seen = f"the samples of the first {done} steps"
        return SdrpnError(
            f"none of {seen} has a {objective.unit} ({int(totals.skipped)} could not be used): "
            f"check {objective.remedy}"
        )


def _step_seed(seed: int, step: int, process: int) -> int:
    digest = hashlib.sha256(f"{seed}/{step}/{process}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
