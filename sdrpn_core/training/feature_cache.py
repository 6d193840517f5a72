"""The branch features of every sample on disk, so that the frozen layers run once for all epochs.

    features.json                 what the cache is made for
    features-000012.safetensors   samples [12 * SHARD_SAMPLES, 13 * SHARD_SAMPLES)

The cache is filled before the first step. Which samples a file holds depends on their index alone,
so any number of processes fills the same folder, and an interrupted run goes on with the files that
are missing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.distributed.processes import progress_bar, wait_for_everyone
from sdrpn_core.errors import CheckpointError, ConfigError, InputError, SdrpnError
from sdrpn_core.training.accepted_batches import accepted_batches
from sdrpn_core.training.batch_loading import load_batches
from sdrpn_core.training.cache_shards import (
    SHARD_SAMPLES,
    CachedSamples,
    shard_path,
    shard_paths,
    write_shard,
)
from sdrpn_core.training.cached_batches import CachedFeatureBatcher, to_cached
from sdrpn_core.training.samples import (
    CachedSample,
    DrawnSamples,
    SkippedSample,
    TrainingSample,
)
from sdrpn_core.util.formatting import readable_bytes
from sdrpn_core.util.package_versions import package_versions
from sdrpn_core.util.run_manifest import ManifestFormat

if TYPE_CHECKING:
    from accelerate import PartialState

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.training.settings import TrainingSettings
    from sdrpn_core.training.sources import TrainingSource

MANIFEST = ManifestFormat(
    name="features.json",
    kind="feature cache",
    error=CheckpointError,
    version=1,
    uncompared=("versions", "backbone.name", "backbone.revision"),
    remedy="choose another folder",
)

STORAGE_DTYPES = ("float32", "bfloat16", "float16")

#: Samples whose lengths are measured to say how large the cache will be.
_MEASURED_SAMPLES = 64
#: Any question: its tokens tell one prompt format or tokenizer from another.
_PROBE = "What is this?"
#: How chat templates read the clock.
_CLOCK = "strftime_now"


class FeatureCache:
    """The cache of one data set, backbone and branch layer.

    Args:
        folder: holds one cache.
        backbone: the frozen model.
        branch: B.
        source: what is cached.
        settings: of the run.
        dtype: of the stored hidden states, by name; default: the backbone's. In a narrower one the
            RPN differs a little from that of a run without a cache.

    Raises:
        ConfigError: a dtype that hidden states are not stored in, masks that cannot be made again
            from hidden states, or samples that differ between epochs.
    """

    def __init__(
        self,
        folder: str | Path,
        backbone: Backbone,
        branch: int,
        source: TrainingSource,
        settings: TrainingSettings,
        dtype: str | None = None,
    ) -> None:
        if backbone.masks_need_rows:
            raise ConfigError(
                f"features of {backbone.name} cannot be cached: its attention masks depend on "
                "which tokens are visual, and a cache does not hold that"
            )
        if isinstance(source.samples, DrawnSamples):
            raise ConfigError(
                "these samples are drawn anew in each epoch, at another resolution: there are no "
                "features to cache"
            )
        self.folder = Path(folder)
        self.backbone = backbone
        self.branch = branch
        self._uncached = source
        self._settings = settings
        computed = str(backbone.model.dtype).removeprefix("torch.")
        name = dtype or computed
        if name not in STORAGE_DTYPES:
            raise ConfigError(
                f"features cannot be stored as {name!r}; known: {', '.join(STORAGE_DTYPES)}"
            )
        self.dtype: torch.dtype = getattr(torch, name)
        is_lossy = torch.promote_types(self.dtype, backbone.model.dtype) != self.dtype
        facts = {**source.facts, "features": name} if is_lossy else source.facts
        self.source = replace(
            source,
            samples=CachedSamples(self.folder, self._digest, len(source.samples)),
            batcher=CachedFeatureBatcher(backbone, branch),
            facts=facts,
        )

    @property
    def _manifest(self) -> dict[str, Any]:
        """Everything that decides the content."""
        source = self._uncached
        return {
            "data": source.facts,
            "backbone": backbone_identity(self.backbone, self.branch),
            "branch": self.branch,
            "labels": source.labels,
            "preprocessing": _preprocessing(self.backbone),
            "computed_in": str(self.backbone.model.dtype),
            "stored_in": str(self.dtype),
            "shard_samples": SHARD_SAMPLES,
            "versions": package_versions(),
        }

    @property
    def _digest(self) -> str:
        return MANIFEST.digest(self._manifest)

    @property
    def _n_shards(self) -> int:
        return -(-len(self._uncached.samples) // SHARD_SAMPLES)

    def fill(self, state: PartialState, *, progress: bool = True) -> None:
        """Compute and write what is missing; every process returns once nothing is.

        The main process prints the size to standard error before anything is written.

        Args:
            state: the processes of the run.
            progress: show a bar on the main process.

        Raises:
            CheckpointError: the folder holds the cache of other data, another backbone, other
                settings (says which).
            ConfigError: the dtype cannot hold the features.
            SdrpnError: the disk has not enough room, or a file cannot be written; finished files
                stay.
        """
        self._check_folder()
        missing = [n for n in range(self._n_shards) if not shard_path(self.folder, n).exists()]
        self._announce(len(missing), state)
        wait_for_everyone(state)  # all have seen the same files, and there is room
        if state.is_main_process:
            self._open_folder()
        wait_for_everyone(state)
        share = missing[state.process_index :: state.num_processes]
        total = sum(len(self._indices(shard)) for shard in share)
        with progress_bar(progress, total=total, desc="features", unit="sample") as bar:
            for shard in share:
                write_shard(
                    self.folder, shard, self._digest, self._compute(shard, state.num_processes)
                )
                bar.update(len(self._indices(shard)))
        wait_for_everyone(state)

    def _indices(self, shard: int) -> range:
        end = min((shard + 1) * SHARD_SAMPLES, len(self._uncached.samples))
        return range(shard * SHARD_SAMPLES, end)

    def _compute(self, shard: int, n_processes: int) -> list[CachedSample | SkippedSample]:
        indices, size = self._indices(shard), self._settings.micro_batch_size
        batches = [list(indices[start : start + size]) for start in range(0, len(indices), size)]
        results: list[CachedSample | SkippedSample] = []
        workers = self._settings.workers(n_processes, self.backbone.device.type)
        for items in load_batches(self._uncached.samples, batches, workers):
            samples = [item for item in items if isinstance(item, TrainingSample)]
            computed = self._cached(samples)
            results += [
                item if isinstance(item, SkippedSample) else next(computed) for item in items
            ]
        return results

    def _cached(self, samples: list[TrainingSample]) -> Iterator[CachedSample | SkippedSample]:
        """The samples as they are cached, one each and in order."""
        for part in accepted_batches(self._uncached.batcher, samples):
            if isinstance(part, SkippedSample):
                yield part
            else:
                yield from to_cached(part.batch, part.samples, self.dtype)

    def _announce(self, n_missing: int, state: PartialState) -> None:
        """Say how large the cache is or will be, and refuse to begin what cannot be finished."""
        dtype = str(self.dtype).removeprefix("torch.")
        n = len(self._uncached.samples)
        text = f"{MANIFEST.kind} {self.folder}: {dtype} features of {n} samples"
        if not n_missing:
            size = sum(path.stat().st_size for path in shard_paths(self.folder))
            text += f", complete ({readable_bytes(size)})"
        else:
            whole = self._estimated_size()
            needed = whole * n_missing / self._n_shards
            free = shutil.disk_usage(_nearest_existing(self.folder)).free
            text += (
                f", about {readable_bytes(whole)}, {readable_bytes(needed)} of it still to be "
                f"written, {readable_bytes(free)} free"
            )
            if needed > free:
                raise SdrpnError(f"{text}: choose another disk, or a narrower dtype")
        if state.is_main_process:
            print(text, file=sys.stderr)

    def _estimated_size(self) -> float:
        """Bytes of the whole cache, from samples spread evenly over the data."""
        n = len(self._uncached.samples)
        n_measured = min(n, _MEASURED_SAMPLES)
        one_by_one = [[number * n // n_measured] for number in range(n_measured)]
        tokens = sum(
            _n_tokens(self.backbone, item)
            for (item,) in load_batches(self._uncached.samples, one_by_one, num_workers=0)
            if isinstance(item, TrainingSample)
        )
        item_size = torch.empty(0, dtype=self.dtype).element_size()
        return tokens * self.backbone.hidden_size * item_size * n / n_measured

    def _check_folder(self) -> None:
        if MANIFEST.exists(self.folder):
            MANIFEST.require_same(self.folder, self._manifest)
        elif shard_paths(self.folder):
            raise SdrpnError(
                f"{self.folder} holds cached features but no {MANIFEST.name}: {MANIFEST.remedy}"
            )

    def _open_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SdrpnError(f"cannot create the folder {self.folder}: {error.strerror}") from error
        if not MANIFEST.exists(self.folder):
            MANIFEST.write(self.folder, self._manifest)


def _n_tokens(backbone: Backbone, sample: TrainingSample) -> int:
    """Tokens of a sample's prompt, response left out; none of one that the backbone refuses."""
    try:
        h, w = sample.image.geometry.grid
        return len(backbone.tokenize(sample.question, 1)) - 1 + h * w
    except InputError:
        return 0


def _preprocessing(backbone: Backbone) -> dict[str, Any]:
    """What turns a record into model inputs, besides the image and the question."""
    return {
        "image_processor": _json_digest(backbone.processor.image_processor.to_dict()),
        "prompt": _prompt_format(backbone),
    }


def _prompt_format(backbone: Backbone) -> Any:
    """What a prompt is made of; the same on every day.

    A chat template that writes the date makes another prompt tomorrow, in which a run has to go on
    all the same. So it stands for what it writes.
    """
    parts = (backbone.processor, backbone.tokenizer)
    templates = [getattr(part, "chat_template", None) for part in parts]
    if _CLOCK not in str(templates):
        return backbone.tokenize(_PROBE, 1)
    question = backbone.tokenizer(_PROBE, add_special_tokens=False).input_ids
    return {"chat_templates": _json_digest(templates), "question": list(question)}


def _json_digest(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
