"""``sdrpn doctor``: one line for everything, also where something is broken."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

import sdrpn_core.cli.installation as installation
import sdrpn_core.plugins.manager
from sdrpn_core import __version__
from sdrpn_core.cli.installation import examine
from sdrpn_core.cli.main import app

REQUIREMENTS = [Requirement(line) for line in importlib.metadata.requires("sdrpn")]


@pytest.fixture
def doctor(monkeypatch):
    """The command, plugins loaded anew for each call."""

    def run(*words):
        monkeypatch.setattr(sdrpn_core.plugins.manager, "_plugins", None)
        return CliRunner().invoke(app, ["doctor", *words])

    return run


def named(findings, name):
    (one,) = [finding for finding in findings if finding.name == name]
    return one


def versions(monkeypatch, **changed):
    """Other versions of some distributions; ``None`` for one that is not installed."""
    real = importlib.metadata.version

    def version(name):
        key = name.replace("-", "_")
        if key not in changed:
            return real(name)
        if changed[key] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return changed[key]

    monkeypatch.setattr(importlib.metadata, "version", version)


def fake_torch(major, *, built="12.8", available=True):
    facts = SimpleNamespace(name="Fast", major=major, total_memory=80 * 2**30)
    cuda = SimpleNamespace(
        is_available=lambda: available,
        device_count=lambda: 2,
        get_device_properties=lambda index: facts,
        get_device_capability=lambda: (major, 0),
    )
    version = SimpleNamespace(cuda=built)
    return SimpleNamespace(cuda=cuda, version=version, get_num_threads=lambda: 4)


def test_everything_is_looked_at_once_and_json_says_the_same(doctor):
    result = doctor("--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["ok"]
    found = {(one["kind"], one["name"]): one for one in report["findings"]}
    assert len(found) == len(report["findings"])
    assert found["package", "sdrpn"]["detail"] == __version__
    needed = {one.name for one in REQUIREMENTS if one.marker is None}
    assert {name for kind, name in found if kind == "package"} == {"sdrpn", *needed}
    assert {name for kind, name in found if kind == "attention"} == {
        "eager",
        "sdpa",
        "flash_attention_2",
    }
    extras = set(importlib.metadata.metadata("sdrpn").get_all("Provides-Extra"))
    shown = {name for kind, name in found if kind == "extra"}
    assert shown == extras - {"all", "dev", "docs", "test"}
    assert found["plugin", "core"]["status"] == "ok"
    lines = doctor().stdout.splitlines()
    assert len(lines) == 1 + len(found)
    for line, (kind, name) in zip(lines[1:], found, strict=True):
        assert line.split()[0] == kind
        assert line.split()[2] == name


def test_a_broken_plugin_is_a_line_and_the_others_are_there(doctor, install_plugin):
    install_plugin("broken", "raise SystemExit('bad\\nday')")
    result = doctor()
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if " failed " in line]
    assert line.startswith("plugin    failed   broken")
    assert "to disable it, set SDRPN_PLUGINS=-broken" in line
    assert "plugin    ok       llava" in result.stdout
    assert "Traceback" not in result.output


def test_a_disabled_plugin_is_no_failure(doctor, monkeypatch):
    monkeypatch.setenv("SDRPN_PLUGINS", "-ray")
    result = doctor("--json")
    assert result.exit_code == 0
    (ray,) = [
        one
        for one in json.loads(result.stdout)["findings"]
        if one["kind"] == "plugin" and one["name"] == "ray"
    ]
    assert ray["status"] == "disabled"


def test_a_package_that_is_too_old_or_missing(monkeypatch):
    versions(monkeypatch, pillow="3.0", pyarrow=None)
    found = examine()
    pillow, pyarrow = named(found, "pillow"), named(found, "pyarrow")
    assert pillow.status == pyarrow.status == "failed"
    assert pillow.detail.startswith("is 3.0, but >=")
    assert pillow.remedy.startswith("pip install 'pillow>=")
    assert pyarrow.detail == "is not installed"


def test_broken_metadata_of_a_package_are_as_good_as_none(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: None)
    assert named(examine(), "pillow").status == "failed"


def test_sdrpn_without_its_metadata(monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    (one,) = examine()
    assert (one.status, one.remedy) == ("failed", "pip install sdrpn")


def test_a_torch_that_cannot_be_imported(monkeypatch):
    real = importlib.import_module

    def import_module(name, *args):
        if name == "torch":
            raise OSError("libcudart.so.12: cannot open shared object file")
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", import_module)
    found = examine()
    broken = [one for one in found if one.name == "torch" and one.status == "failed"]
    assert len(broken) == 1
    assert "libcudart" in broken[0].detail
    assert not [one for one in found if one.kind in ("device", "attention")]
    assert [one for one in found if one.kind == "plugin"]


@pytest.mark.parametrize(
    ("torch", "flash", "status", "words"),
    [
        (fake_torch(8), "2.8.0", "failed", "cannot be imported"),
        (fake_torch(9), None, "missing", "flash-attn is not installed"),
        (fake_torch(7), "2.8.0", "missing", "8.0 or higher"),
        (fake_torch(9, available=False), "2.8.0", "missing", "needs a CUDA device"),
    ],
)
def test_flash_attention_needs_a_device_and_a_package(monkeypatch, torch, flash, status, words):
    versions(monkeypatch, flash_attn=flash)
    (_, _, one) = installation._attention(torch)
    assert (one.name, one.status) == ("flash_attention_2", status)
    assert words in one.detail
    if flash is None:
        assert one.remedy == "pip install 'sdrpn[flash-attn]'"


def test_devices_and_what_they_can(monkeypatch):
    cpu, first, second = installation._devices(fake_torch(9))
    assert (cpu.name, first.name, second.name) == ("cpu", "cuda:0", "cuda:1")
    assert first.detail == "Fast, 85.9 GB, bfloat16"
    assert next(d for d in installation._devices(fake_torch(7)) if d.name == "cuda:0").detail == (
        "Fast, 85.9 GB, no bfloat16"
    )
    (_, none) = installation._devices(fake_torch(9, built=None, available=False))
    assert (none.status, none.detail) == ("missing", "this build of torch is for the CPU alone")


def test_an_extra_names_what_it_lacks_that_of_other_extras_included(monkeypatch):
    versions(monkeypatch, ray="2.0", pillow_heif=None)
    found = examine()
    extras = {one.name: one for one in found if one.kind == "extra"}
    assert extras["heif"].detail == "pillow-heif is not installed"
    assert extras["heif"].remedy == "pip install 'sdrpn[heif]'"
    assert extras["ray"].detail.startswith("ray is 2.0, but >=")
    if "serve" in extras:  # which builds on the extra `ray`
        assert "ray is 2.0" in extras["serve"].detail


def required(extra):
    return {
        str(one).partition(";")[0]
        for one in REQUIREMENTS
        if one.marker is not None and one.marker.evaluate({"extra": extra})
    }


def test_all_names_every_extra_that_installs_from_wheels():
    """One word for each; flash-attn is built from source, and two extras are for developers."""
    extras = set(importlib.metadata.metadata("sdrpn").get_all("Provides-Extra"))
    parts = {extra: required(extra) for extra in extras - {"all", "dev", "flash-attn", "test"}}
    assert {extra for extra, needed in parts.items() if not needed <= required("all")} == set()
    assert not required("flash-attn") <= required("all")
