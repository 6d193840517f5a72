"""The train stage: an RPN learns from the branch features what its objective asks for.

The backbone is frozen and runs its first layers only, without gradients. Labels of regions come
from a label run ("stored"), or are made in the same forward pass from the responses that records
come with ("lazy"); other objectives have data of their own, see
:mod:`sdrpn_core.training.objective`.
Under ``accelerate launch`` every process calls :func:`train` with the same arguments; neither their
number nor the micro-batch size changes the result, see :mod:`sdrpn_core.training.step`. With a
feature cache the backbone runs once per sample, whatever the number of epochs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from sdrpn_core.data.hub import HubSplit
from sdrpn_core.data.read import dataset_name
from sdrpn_core.data.record import HUB_PREFIX, Record
from sdrpn_core.distributed.processes import processes, wait_for_everyone
from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.backbone_source import is_hub_id
from sdrpn_core.rpn.card import CardFacts
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.training.data_order import DataOrder
from sdrpn_core.training.feature_cache import FeatureCache
from sdrpn_core.training.free_layers import truncate
from sdrpn_core.training.label_objective import LabelObjective
from sdrpn_core.training.log import TrainingLog
from sdrpn_core.training.loop import TrainingLoop
from sdrpn_core.training.optim import make_optimizer, make_schedule
from sdrpn_core.training.run_folder import TRACKER_FOLDER, RunFolder
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.several_runs import training_source
from sdrpn_core.training.step import StepSums, TrainingStep
from sdrpn_core.training.trackers import check_trackers, start_trackers
from sdrpn_core.util.folder_lock import hold_folder
from sdrpn_core.util.json_files import write_json
from sdrpn_core.util.memory import peak_memory
from sdrpn_core.util.package_versions import package_versions

if TYPE_CHECKING:
    from accelerate import PartialState

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.labeling.run import LabelDataset
    from sdrpn_core.labels.recipe import LabelRecipe
    from sdrpn_core.rpn.model import RPN
    from sdrpn_core.training.objective import Objective
    from sdrpn_core.training.sources import TrainingSource

__all__ = ["TrainingResult", "train"]

SETTINGS_NAME = "training.json"


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a training run arrived at.

    Attributes:
        folder: of the saved RPN.
        rpn: the same, attached to the backbone, in its dtype.
        steps: optimizer steps of the whole run.
        resumed_from: steps that an earlier session had done.
        loss: mean of the last log entry over what the objective counts; NaN if that was nothing.
        samples: images that this session trained on.
        skipped: records that this session could not use.
        peak_memory: bytes, of this process; ``None`` where the system does not tell. See
            :func:`~sdrpn_core.util.memory.peak_memory`.
    """

    folder: Path
    rpn: RPN
    steps: int
    resumed_from: int
    loss: float
    samples: int
    skipped: int
    peak_memory: int | None


def train(
    backbone: Backbone,
    data: str | Path | LabelDataset | Sequence[str | Path | LabelDataset] | Sequence[Record],
    out_dir: str | Path,
    settings: TrainingSettings | None = None,
    config: RPNConfig | None = None,
    *,
    recipe: LabelRecipe | None = None,
    recipe_options: Mapping[str, Any] | None = None,
    objective: Objective | None = None,
    resume: bool = False,
    overwrite: bool = False,
    feature_cache: str | Path | None = None,
    feature_cache_dtype: str | None = None,
    free_backbone: bool = False,
    trackers: Sequence[str] = (),
    progress: bool = True,
) -> TrainingResult:
    """Train an RPN, or a part of one, or continue an interrupted run.

    Args:
        backbone: the frozen model.
        data: what the objective takes. For labels, the folder of a label run (or its
            :class:`LabelDataset`), or records with responses, whose labels are made while training;
            for the others, the folder of a utility run, or of a ladder run. A list of folders is
            trained on as one data set: label runs with a recipe each, for example.
        out_dir: holds one run: ``rpn/`` (the result), ``checkpoints/``, ``train_log.jsonl``,
            ``run.json``, and ``trackers/`` with what trackers write to disk.
        settings: default: the backbone's preset, with the objective's defaults.
        config: of a new RPN; default: the backbone's preset.
        recipe: how attention becomes labels; default: that of the label run, or for records the
            first of the preset. For a label run only thresholds may differ.
        recipe_options: fields that the recipe is to have, whichever it is, as plain JSON values.
        objective: what the RPN is trained for; default: the labels, by ``config``, ``recipe`` and
            ``recipe_options``, which no other objective takes.
        resume: require a run to resume in ``out_dir``. By default the run that is there is resumed,
            if there is one.
        overwrite: start over: remove the run that is in ``out_dir``.
        feature_cache: folder on a large disk, for runs of several epochs: the branch features of
            all samples are written there first, and no frozen layer runs after that. A killed run
            goes on where it was, and other runs on the same data may share the folder.
        feature_cache_dtype: ``float32``, ``bfloat16`` or ``float16``; default: the backbone's,
            which changes nothing.
        free_backbone: drop what training does not run from ``backbone``, for good; see
            :func:`~sdrpn_core.training.free_layers.truncate`.
        trackers: names of accelerate's experiment trackers (``tensorboard``, ``wandb``,
            ``trackio`` ...) that get the entries of the log as well; see
            :func:`~sdrpn_core.training.trackers.check_trackers`.
        progress: show a bar on the main process.

    Returns:
        The trained RPN, in every process.

    Raises:
        ConfigError: settings that do not fit the backbone, the labels or the machine; the same run
            twice, or runs of different kinds.
        ShardError: labels of another backbone, an incomplete label run, a corrupt shard.
        CheckpointError: ``out_dir`` holds another run, or cannot be resumed; or ``feature_cache``
            holds the features of other data, another backbone or other settings.
        UnknownNameError: accelerate knows no such tracker.
        SdrpnError: a tracker is not installed or cannot be started, another process uses
            ``out_dir``, the disk has no room for the features,
            training diverged, no sample has a label, or something cannot be written.
    """
    out_dir = Path(out_dir)
    trackers = check_trackers(trackers)
    if objective is None:
        config = config or RPNConfig.for_backbone(backbone)
        objective = LabelObjective(config, recipe, recipe_options)
    elif config is not None or recipe is not None or recipe_options:
        raise ConfigError(
            "config, recipe and recipe_options are for training on labels: give them or an "
            "objective"
        )
    settings = settings or objective.settings(backbone)
    precision = _precision(settings, backbone.device)
    state = processes(backbone.device)
    source = training_source(objective, backbone, data, settings)
    rpn = _starting_rpn(objective, backbone, source, settings)
    cache = None
    if feature_cache is not None:
        cache = FeatureCache(
            feature_cache, backbone, rpn.branch, source, settings, feature_cache_dtype
        )
        source = cache.source
    elif feature_cache_dtype is not None:
        raise ConfigError("feature_cache_dtype is given, but no feature_cache to store features in")
    order = DataOrder(len(source.samples), settings.global_batch_size, settings.seed)
    steps = settings.max_steps or settings.epochs * order.steps_per_epoch
    if free_backbone:
        truncate(backbone, source.n_layers)

    manifest = _manifest(settings, rpn, source, objective)
    run = RunFolder(out_dir, manifest, settings.keep_checkpoints)
    with _opened(run, state, resume=resume, overwrite=overwrite) as first:
        if cache is not None:
            cache.fill(state, progress=progress)
        optimizer = make_optimizer(objective.trained(rpn), settings)
        if first:
            run.checkpoints.load(first, rpn, optimizer)
        accelerator = _accelerator(out_dir, precision, backbone.device, trackers)
        start_trackers(accelerator, out_dir, first, settings.to_dict())
        loop = TrainingLoop(
            accelerator,
            settings,
            source.samples,
            order,
            TrainingStep(
                accelerator, rpn, objective, source.batcher, optimizer, settings.max_grad_norm
            ),
            make_schedule(optimizer, settings, steps),
            run.checkpoints,
            TrainingLog(out_dir, accelerator, objective, first),
        )
        objective.trained(rpn).train()
        totals = _run_steps(loop, first, steps, backbone.device, progress=progress)
        rpn.eval()
        if accelerator.is_main_process:
            rpn.save_pretrained(run.rpn, card=CardFacts(datasets=_public_names(source.datasets)))
            facts = {
                "settings": settings.to_dict(),
                "data": source.facts,
                "labels": source.labels,
            }
            write_json(run.rpn / SETTINGS_NAME, facts, sort_keys=True)
        wait_for_everyone(state)
    return TrainingResult(
        folder=run.rpn,
        rpn=rpn.requires_grad_(True).to(backbone.model.dtype),
        steps=steps,
        resumed_from=first,
        loss=loop.log.last_loss,
        samples=int(totals.samples),
        skipped=int(totals.skipped),
        peak_memory=peak_memory(backbone.device),
    )


@contextmanager
def _opened(run: RunFolder, state: PartialState, *, resume: bool, overwrite: bool) -> Iterator[int]:
    """Hold the folder of a run, by the main process for all; yields how many steps are done."""
    with hold_folder(run.folder) if state.is_main_process else nullcontext():
        first = run.check(resume=resume, overwrite=overwrite)
        wait_for_everyone(state)  # only now may anyone write what the others have to look at
        if state.is_main_process:
            run.open(overwrite=overwrite)
        wait_for_everyone(state)
        yield first


def _run_steps(
    loop: TrainingLoop, first: int, last: int, device: torch.device, *, progress: bool
) -> StepSums:
    """Run the loop; the caller's random numbers are as they were, and trackers are closed."""
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return loop.run(first, last, progress=progress)
    finally:
        # Not `end_training`: it would take the process group from whatever comes after.
        for tracker in loop.accelerator.trackers:
            tracker.finish()


def _public_names(sources: Sequence[str]) -> tuple[str, ...]:
    """What a model card may call the data: registered names and Hub ids, and no path."""
    names = dict.fromkeys(_public_name(source) for source in sources)
    return tuple(name for name in names if name is not None)


def _public_name(source: str) -> str | None:
    if source.startswith(HUB_PREFIX):
        repo = HubSplit.parse(source).repo
        return repo if is_hub_id(repo) and not Path(repo).exists() else None
    return dataset_name(source)


def _starting_rpn(
    objective: Objective, backbone: Backbone, source: TrainingSource, settings: TrainingSettings
) -> RPN:
    """What the run starts from; the same in every process, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        rpn = objective.start(backbone, source)
    rpn.gradient_checkpointing = settings.gradient_checkpointing
    rpn.requires_grad_(False).eval()
    objective.trained(rpn).requires_grad_(True)
    return rpn


def _precision(settings: TrainingSettings, device: torch.device) -> str:
    """Resolve ``auto``, and refuse what would be slow or wrong.

    Raises:
        ConfigError: bf16 on a device that does not have it.
    """
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if settings.mixed_precision == "bf16" and not has_bf16:
        raise ConfigError(f"mixed_precision bf16 needs a CUDA device that has it, not {device}")
    if settings.mixed_precision == "auto":
        return "bf16" if has_bf16 else "no"
    return settings.mixed_precision


def _accelerator(
    out_dir: Path, precision: str, device: torch.device, trackers: Sequence[str]
) -> Accelerator:
    return Accelerator(
        mixed_precision=precision,
        cpu=device.type == "cpu",
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(
            project_dir=str(out_dir), logging_dir=str(out_dir / TRACKER_FOLDER)
        ),
    )


def _manifest(
    settings: TrainingSettings, rpn: RPN, source: TrainingSource, objective: Objective
) -> dict[str, Any]:
    """Everything that decides the weights of a run."""
    facts = objective.facts(rpn)
    return {
        **({"objective": {"name": objective.name, **facts}} if facts else {}),
        "data": source.facts,
        "rpn": {k: v for k, v in rpn.config.to_dict().items() if k != "versions"},
        "settings": settings.resume_fields(),
        "versions": package_versions("accelerate", "timm"),
    }
