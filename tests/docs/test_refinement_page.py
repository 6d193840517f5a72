"""The page on refinement: its commands and its Python example, on the model that ships."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from sdrpn_core import BestRegion, WeightedRegions
from sdrpn_core.cli.main import main
from sdrpn_core.crops.candidates import RegionSampler
from sdrpn_core.data.images import open_image
from sdrpn_core.data.read import read_records
from sdrpn_core.utility.defaults import DEFAULT_CANDIDATES
from sdrpn_glyphs import backbone_dir, rpn_dir
from sdrpn_glyphs.export_command import export
from tests.docs.fences import ROOT, run_blocks, shell_lines

PAGE = "docs/refinement.md"
#: As many as it takes for some region to help; answers of the small model are two words.
N_RECORDS = 6
SHORT = "--max-new-tokens 4"
QUICK = "--lr 1e-4"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with ``MODEL``, its RPN and records, as on the page."""
    (tmp_path / "MODEL").symlink_to(backbone_dir())
    export(tmp_path, "glyphs/small", N_RECORDS).rename(tmp_path / "DATA.jsonl")
    (tmp_path / "runs/rpn").mkdir(parents=True)
    (tmp_path / "runs/rpn/rpn").symlink_to(rpn_dir())
    monkeypatch.chdir(tmp_path)
    (record, *_) = read_records("DATA.jsonl", n=1)
    open_image(record.images[0]).save("IMAGE.png")
    return tmp_path


def test_the_page_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refined, ask, utility, train = shell_lines(PAGE)
    for line in (f"{refined} {SHORT} {QUICK}", ask, f"{utility} {SHORT}", f"{train} {QUICK}"):
        with pytest.raises(SystemExit) as end:
            main(shlex.split(line)[1:])
        assert not end.value.code, f"{line}: {capsys.readouterr().err}"
    by_hand, first = Path("runs/judged"), Path("runs/refined/round-1/utility")
    for shard in first.glob("*.parquet"):
        assert (by_hand / shard.name).read_bytes() == shard.read_bytes()
    weights = [
        (Path(run) / "rpn/model.safetensors").read_bytes()
        for run in ("runs/once", "runs/refined/round-1/train")
    ]
    assert weights[0] == weights[1]
    names = run_blocks(PAGE, {})
    assert names["rpn"].config.gate is None


def test_the_defaults_are_those_of_the_code() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert f"`--margin` ({BestRegion().margin} nats" in page
    assert f"`--tolerance` ({BestRegion().tolerance} nats)" in page
    assert f"`--temperature`) ({WeightedRegions().temperature} nats)" in page
    assert f"`--candidates` ({DEFAULT_CANDIDATES})" in page
    assert sorted(RegionSampler().thresholds) == [0.25, 0.5, 0.75]
    assert RegionSampler().uniform == 0.25
