"""What a release is made of: one version, two distributions, and a workflow that may do little."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from packaging.version import Version

import sdrpn_core

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())


def test_the_version_stands_in_one_place():
    assert str(Version(sdrpn_core.__version__)) == sdrpn_core.__version__
    text = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in text
    assert not re.search(r"^version\s*=", text, re.MULTILINE)
    assert "version:" not in (ROOT / "CITATION.cff").read_text().replace("cff-version:", "")


def test_the_source_distribution_builds_the_rest(tmp_path):
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    version = sdrpn_core.__version__
    assert Path(path).name == f"sdrpn-{version}.tar.gz"
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "README.md", "LICENSE", "sdrpn_core/__init__.py", "PKG-INFO"}
    assert needed <= names
    assert {"plugins/sdrpn_glyphs/assets/llava/model.safetensors", "Makefile"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(".venv")]


def test_only_the_job_that_publishes_may(workflow):
    jobs = workflow["jobs"]
    assert workflow["permissions"] == {"contents": "read"}
    assert jobs["pypi"]["permissions"] == {"id-token": "write"}
    assert jobs["pypi"]["environment"]["name"] == "pypi"
    assert set(jobs["pypi"]["needs"]) == {"build", "check"}
    assert "permissions" not in jobs["build"]
    assert "permissions" not in jobs["check"]
    # Trusted publishing: no token anywhere but that of the run.
    assert re.findall(r"secrets\.", (ROOT / ".github/workflows/release.yml").read_text()) == []


def test_a_release_needs_a_tag_that_is_the_version(workflow):
    steps = workflow["jobs"]["build"]["steps"]
    assert any("GITHUB_REF_NAME#v" in step.get("run", "") for step in steps)
    assert workflow["jobs"]["pypi"]["if"] == "github.ref_type == 'tag'"
    assert workflow[True]["push"] == {"tags": ["v*"]}  # YAML reads the key "on" as true


def test_the_citation_agrees_with_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "title", "message", "authors"} <= citation.keys()
    text = (ROOT / "pyproject.toml").read_text()
    assert f'license = "{citation["license"]}"' in text
    assert "2509.16944" in citation["preferred-citation"]["url"]


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")))
def test_issue_templates_are_well_formed(path):
    template = yaml.safe_load(path.read_text())
    if path.name == "config.yml":
        assert template == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= template.keys()
    ids = [field["id"] for field in template["body"]]
    assert len(ids) == len(set(ids))
    for field in template["body"]:
        assert field["type"] in {"textarea", "input", "dropdown", "markdown", "checkboxes"}
        assert field["attributes"]["label"]
