"""The local engine: what a job says is what its folder holds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sdrpn_core import label, load_backbone
from sdrpn_core.errors import ConfigError, ShardError
from sdrpn_core.labeling.engine import LocalEngine
from sdrpn_core.labeling.job import LabelJob
from sdrpn_core.labeling.manifest import LabelManifest
from tests.stage_data import RECIPE, files, records
from tests.tiny import write_tiny_llava


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, three records, and a recipe."""
    folder = tmp_path_factory.mktemp("engine")
    write_tiny_llava(folder / "model")
    lines = []
    for record in records(3):
        record.images[0].save(folder / f"{record.id}.png")
        lines.append(
            {"image": f"{record.id}.png", "question": record.question, "response": record.response}
        )
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.json").write_text(RECIPE.to_json())
    return folder


@pytest.fixture
def job(folder, tmp_path):
    return LabelJob(
        str(folder / "data.jsonl"),
        str(folder / "model"),
        tmp_path / "out",
        recipe=str(folder / "recipe.json"),
        load_options={"device": "cpu"},
        batch_size=2,
        shard_size=2,
    )


def test_the_job_names_the_data(job):
    LocalEngine().run(replace(job, dataset="mine"), overwrite=False, progress=False)
    assert LabelManifest.read(job.folder).dataset == "mine"
    LocalEngine().run(job, overwrite=True, progress=False)
    assert LabelManifest.read(job.folder).dataset == job.data


def test_a_job_writes_what_label_writes(job, tmp_path):
    summary = LocalEngine().run(job, overwrite=False, progress=False)
    backbone = load_backbone(job.model, device="cpu")
    same = label(backbone, job.data, tmp_path / "b", recipe=RECIPE, batch_size=2, shard_size=2)
    assert summary == same
    assert files(job.folder) == files(tmp_path / "b")


def test_another_run_is_refused_or_overwritten(job):
    LocalEngine().run(job, overwrite=False, progress=False)
    other = replace(job, shard_size=3)
    with pytest.raises(ShardError, match="shard_size is 2 there and 3 here"):
        LocalEngine().run(other, overwrite=False, progress=False)
    assert LocalEngine().run(other, overwrite=True, progress=False).missing_shards == 0
    assert LabelManifest.read(job.folder).shards == 1
    with pytest.raises(ConfigError, match="shard_size must be a whole number of at least 1, not 0"):
        LocalEngine().run(replace(job, shard_size=0), overwrite=False, progress=False)
