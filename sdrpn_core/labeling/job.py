"""A label run by names and paths: what a process on another machine needs to take part in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdrpn_core.backbone.loading import load_for_process
from sdrpn_core.backbone.recipe_option import read_recipe
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.options import ReadOptions
from sdrpn_core.data.read import absolute_source, read_records
from sdrpn_core.data.record import RecordSource
from sdrpn_core.labeling.defaults import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_SHARD_SIZE,
)
from sdrpn_core.labeling.manifest import LabelManifest
from sdrpn_core.labeling.run import LabelRun, open_run
from sdrpn_core.labeling.stage import ShardMaker

__all__ = ["LabelJob"]


@dataclass(frozen=True)
class LabelJob:
    """A label run by names and paths.

    Attributes:
        data: a JSONL file, a parquet file or folder, or a registered dataset.
        model: local folder or hub id.
        folder: where the shards go.
        recipe: name in the backbone's preset, or a JSON file; ``None``: the preset's first.
        recipe_options: fields of the recipe to replace, as plain JSON values.
        n: at most this many records.
        seed: selects or generates the records.
        load_options: arguments of ``load_backbone``.
        batch_size: records that go through the model together.
        shard_size: records per shard.
        max_new_tokens: max new tokens per generated response.
        max_pixels: images with more pixels count as unreadable.
        dataset: what the manifest calls the data; ``None``: as it is spelled in ``data``.
        read: how the data is read.
    """

    data: str
    model: str
    folder: Path
    recipe: str | None = None
    n: int | None = None
    seed: int = 0
    load_options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = DEFAULT_BATCH_SIZE
    shard_size: int = DEFAULT_SHARD_SIZE
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    max_pixels: int = MAX_PIXELS
    dataset: str | None = None
    recipe_options: Mapping[str, Any] = field(default_factory=dict)
    read: ReadOptions = field(default_factory=ReadOptions)

    def with_absolute_paths(self) -> LabelJob:
        """The same job for a process that runs in another folder: paths are absolute.

        It writes the same manifest: the data keeps the name that the user gave it.
        """
        data = absolute_source(self.data)
        root = self.read.image_root
        return replace(
            self,
            dataset=self.dataset or (self.data if data == self.data else str(Path(self.data))),
            data=data,
            read=replace(self.read, image_root=None if root is None else os.path.abspath(root)),
            model=_absolute(self.model),
            folder=Path(os.path.abspath(self.folder)),
            recipe=None if self.recipe is None else _absolute(self.recipe),
        )

    def records(self) -> RecordSource:
        """Open the records.

        Raises:
            InputError: they cannot be read.
        """
        return read_records(self.data, n=self.n, seed=self.seed, **vars(self.read))

    def maker(self) -> ShardMaker:
        """Open the records and load the backbone, in this process.

        Raises:
            SdrpnError: see :func:`~sdrpn_core.labeling.stage.label`.
        """
        source = self.records()  # first: it is quick to fail
        backbone = load_for_process(self.model, dict(self.load_options))
        named = read_recipe(self.recipe, backbone).recipe or backbone.preset.recipe()
        recipe = named.with_options(self.recipe_options)
        return ShardMaker(
            backbone, source, recipe, self.batch_size, self.max_new_tokens, self.max_pixels
        )

    def manifest(self, maker: ShardMaker) -> LabelManifest:
        """What decides the content of the run, made by ``maker``.

        Raises:
            ConfigError: the shard size is not positive.
        """
        return maker.manifest(self.shard_size, dataset=self.dataset)

    def open_run(self, maker: ShardMaker, *, overwrite: bool = False) -> LabelRun:
        """Open the folder for shards of ``maker``.

        Raises:
            ShardError: it holds a run that ``maker`` would not continue; names what differs.
        """
        return open_run(self.folder, self.manifest(maker), overwrite=overwrite)


def _absolute(text: str) -> str:
    """A path that exists as an absolute one; names of datasets, recipes and hub ids as they are."""
    return os.path.abspath(text) if Path(text).exists() else text
