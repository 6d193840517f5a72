"""Labeling on a local Ray cluster: the bytes of one process, whichever workers die on the way."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sdrpn_core.cli.main import app
from sdrpn_core.errors import ConfigError, SdrpnError
from sdrpn_core.labeling.engine import LocalEngine
from sdrpn_core.labeling.job import LabelJob
from sdrpn_core.labeling.manifest import LabelManifest
from sdrpn_core.plugins.manager import get_plugins
from tests import deadly_data
from tests.stage_data import RECIPE, files, records
from tests.tiny import write_tiny_llava

#: Ray warns itself of options of its own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, records, a recipe, and a plugin with a dataset that kills."""
    folder = tmp_path_factory.mktemp("ray")
    write_tiny_llava(folder / "model")
    lines = []
    for index, record in enumerate(records(7)):
        record.images[0].save(folder / f"{index}.png")
        line = {"image": f"{index}.png", "question": record.question}
        lines.append(line | ({"response": record.response} if index % 2 else {}))
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.json").write_text(RECIPE.to_json())
    deadly_data.install(folder / "site")
    return folder


@pytest.fixture(scope="module")
def cluster(folder) -> Iterator[None]:
    """Two processors on this machine, whose workers see the plugin; nothing is reported to Ray."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(ROOT), str(folder / "site"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv(deadly_data.FOLDER_VARIABLE, str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written to the home folder
        import ray

        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=2**27,
            _node_ip_address="127.0.0.1",
        )
        yield
        ray.shutdown()


@pytest.fixture
def job(cluster, folder, fresh_plugins) -> LabelJob:
    fresh_plugins.register(deadly_data, "deadly")
    return LabelJob(
        deadly_data.NAME,
        str(folder / "model"),
        folder / "out",
        recipe=str(folder / "recipe.json"),
        load_options={"device": "cpu"},
        batch_size=2,
        shard_size=2,
        max_new_tokens=3,
    )


@pytest.fixture
def engine(cluster):
    return get_plugins().label_engines.get("ray")


def local(job: LabelJob) -> dict[str, bytes]:
    """What one process writes."""
    job = replace(job, folder=job.folder.with_name("local"))
    LocalEngine().run(job, overwrite=True, progress=False)
    return files(job.folder)


@pytest.mark.slow
def test_a_worker_is_killed_and_nothing_is_lost(job, engine, folder):
    (folder / "armed").write_text(str(folder))
    job = replace(job, folder=folder / "killed", dataset="mine")
    summary = engine(workers=2).run(job, overwrite=False, progress=False)
    assert not (folder / "armed").exists(), "nobody was killed"
    assert sum(summary.counts.values()) == 7
    assert summary.missing_shards == 0
    assert files(job.folder) == local(job)
    # Both engines name the data as the job does.
    for made in (job.folder, job.folder.with_name("local")):
        assert LabelManifest.read(made).dataset == "mine"


@pytest.mark.faults  # a minute and a half of waiting for Ray to give up
def test_workers_that_keep_dying_end_the_job_and_the_next_one_finishes_it(job, engine, folder):
    (folder / "armed").write_text(str(folder))
    job = replace(job, folder=folder / "given-up")
    with pytest.raises(SdrpnError, match="too many workers died"):
        engine(workers=1, max_deaths=0).run(job, overwrite=False, progress=False)
    there = set(files(job.folder))
    assert "labels-00002.parquet" not in there
    kept = {path: path.stat().st_mtime_ns for path in job.folder.glob("*.parquet")}

    summary = engine(workers=1).run(job, overwrite=False, progress=False)
    assert sum(summary.counts.values()) == 7
    assert files(job.folder) == local(job)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "made again"


@pytest.mark.slow
def test_the_command_says_on_which_machine_what_is_wrong(job, engine, folder):
    job = replace(job, folder=folder / "other")
    LocalEngine().run(replace(job, max_new_tokens=4), overwrite=False, progress=False)
    words = [
        *("label", job.data, "--model", job.model, "--out", str(job.folder), "--device", "cpu"),
        *("--recipe", str(job.recipe), "--shard-size", "2", "--max-new-tokens", "3"),
        *("--engine", "ray", "--engine-option", "workers=1"),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "max_new_tokens is 4 there and 3 here" in line


def test_a_worker_in_another_folder_opens_the_same_run(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    job = LabelJob(
        "./data.jsonl",
        "model",
        Path("here"),
        recipe="recipe.json",
        load_options={"device": "cpu"},
        shard_size=4,
        max_new_tokens=3,
    )
    LocalEngine().run(job, overwrite=False, progress=False)
    elsewhere = replace(job, folder=Path("there")).with_absolute_paths()
    monkeypatch.chdir(tmp_path)
    elsewhere.open_run(elsewhere.maker())
    manifests = [(folder / name / "manifest.json").read_bytes() for name in ("here", "there")]
    assert manifests[0] == manifests[1]
    assert b'"dataset": "data.jsonl"' in manifests[0]


def test_impossible_options_are_refused(engine, job, monkeypatch):
    with pytest.raises(ConfigError, match="workers must be 1 or more, not 0"):
        engine(workers=0)
    with pytest.raises(ConfigError, match="unknown field 'worker'; did you mean 'workers'"):
        engine.from_options({"worker": 2})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without accelerate launch"):
        engine().run(job, overwrite=False, progress=False)


def test_an_address_where_nobody_listens_is_refused_at_once(engine, job, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SdrpnError, match=f"there is no Ray cluster at {address}: "):
            engine(address=address).run(job, overwrite=False, progress=False)


def test_without_the_extra_one_line_says_what_to_install(folder, monkeypatch, fresh_plugins):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("sdrpn_ray.")]:
        monkeypatch.delitem(sys.modules, name)
    words = ["label", str(folder / "data.jsonl"), "--model", "m", "--out", "o", "--engine", "ray"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert line.endswith("pip install 'sdrpn[ray]'")
