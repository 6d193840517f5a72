"""A label job that is sent to a process in another folder."""

from __future__ import annotations

from pathlib import Path

from sdrpn_core.data.options import ReadOptions
from sdrpn_core.labeling.job import LabelJob


def test_a_path_becomes_absolute_and_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data.jsonl").touch()
    job = LabelJob("./data.jsonl", "hub/model", Path("out")).with_absolute_paths()
    assert (job.data, job.dataset) == (str(tmp_path / "data.jsonl"), "data.jsonl")
    assert (job.model, job.folder) == ("hub/model", tmp_path / "out")


def test_copies_and_hub_folders_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("copy").mkdir()
    names = {
        "textvqa=copy": f"textvqa={tmp_path / 'copy'}",
        "hf:copy:test": f"hf:{tmp_path / 'copy'}:test",
        "hf:org/name:test": "hf:org/name:test",
        "textvqa": "textvqa",
    }
    for given, absolute in names.items():
        read = ReadOptions(image_root="images")
        job = LabelJob(given, "model", Path("out"), read=read).with_absolute_paths()
        assert job.data == absolute
        assert job.dataset == given
        assert job.read.image_root == str(tmp_path / "images")


def test_a_dataset_is_no_folder_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("glyphs/small").mkdir(parents=True)
    job = LabelJob("glyphs/small", "model", Path("out"), n=2).with_absolute_paths()
    assert (job.data, job.dataset) == ("glyphs/small", "glyphs/small")
    assert len(job.records()) == 2
