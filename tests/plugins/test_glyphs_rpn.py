"""The RPN that ships beside the embedded backbone, and the short way there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sdrpn_bench import BenchModel, run_benchmark
from sdrpn_bench.results_table import gain_line
from sdrpn_core import RPN, load_backbone
from sdrpn_core.data.read import read_records
from sdrpn_core.errors import InputError, SdrpnError, UnknownNameError
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_glyphs import backbone_dir, quickstart, quickstart_command, rpn_dir
from sdrpn_glyphs.export_command import export
from sdrpn_glyphs.families import NAMES
from sdrpn_glyphs.records import is_correct
from tests.environments import ROOT
from tests.plugins import small_quickstart

N = 40


@pytest.fixture(scope="module", params=sorted(NAMES))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def backbone(name):
    return load_backbone(backbone_dir(name), device="cpu")


def test_preset_is_found_by_the_config(name, backbone):
    assert backbone.preset.source == "measured on the embedded backbone"
    rpn = RPN.from_pretrained(rpn_dir(name), backbone=backbone)
    assert (rpn.config.branch, rpn.config.n_layers) == (
        backbone.preset.branch,
        backbone.preset.n_layers,
    )
    assert LabelRecipe.from_dict(rpn.config.recipe) == backbone.preset.recipe()


def test_the_rpn_sees_what_the_backbone_alone_cannot(name, backbone, tmp_path):
    results = run_benchmark(
        BenchModel(backbone, rpn_dir(name), name="glyphs"),
        ["baseline", "sdrpn", "random", "oracle"],
        "glyphs/small",
        out=tmp_path,
        n=N,
        seed=7,
        batch_size=20,
        max_new_tokens=8,
    )
    methods = results["methods"]
    low, _ = methods["sdrpn"]["difference"]["interval"]
    assert low > 0.2
    assert methods["sdrpn"]["accuracy"] >= 0.8 * methods["oracle"]["accuracy"]
    assert methods["random"]["accuracy"] < methods["sdrpn"]["accuracy"]
    assert methods["baseline"]["accuracy"] < 0.3  # one in seven by guessing


def test_an_rpn_of_another_family_is_refused(name, backbone):
    other = next(known for known in sorted(NAMES) if known != name)
    with pytest.raises(SdrpnError, match="belongs to another backbone"):
        RPN.from_pretrained(rpn_dir(other), backbone=backbone)


def test_records_are_drawn_from_split_and_seed_alone():
    one, again = (
        read_records("glyphs/small", n=3, seed=5),
        read_records("glyphs/small", n=3, seed=5),
    )
    other = read_records("glyphs/small", n=3, seed=6)
    assert [r.id for r in one] == [r.id for r in again] != [r.id for r in other]
    assert [r.images[0].tobytes() for r in one] == [r.images[0].tobytes() for r in again]
    assert is_correct(one[0].answer.split()[-1].upper() + ".", one[0])
    assert not is_correct("a shape", one[0])


def test_export_reads_back_as_records(tmp_path):
    jsonl = export(tmp_path / "data", "glyphs/visible", 3, seed=2)
    for found, drawn in zip(
        read_records(jsonl), read_records("glyphs/visible", n=3, seed=2), strict=True
    ):
        assert (found.id, found.question, found.answer) == (drawn.id, drawn.question, drawn.answer)
        assert found.boxes == drawn.boxes
        assert found.images[0].is_file()
    with pytest.raises(InputError, match="already exists"):
        export(tmp_path / "data", "glyphs/visible", 3)
    with pytest.raises(UnknownNameError, match="glyphs/small"):
        export(tmp_path / "other", "glyphs/smal", 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "families", [["llava"], pytest.param(list(NAMES), marks=pytest.mark.long)], ids=len
)
def test_quickstart_goes_the_whole_way(families, tmp_path, monkeypatch, capsys):
    """As ``make quickstart`` runs it, in two processes; one goes on with what they have made."""
    out = tmp_path / "run"
    launched = subprocess.run(
        [
            *(Path(sys.executable).with_name("accelerate"), "launch"),
            *(f"--config_file={ROOT / 'configs/accelerate/ddp_cpu.yaml'}", "--module"),
            *("tests.plugins.small_quickstart", "--n=6", "--seed=1", f"--out={out}", "--json"),
            *(f"--family={family}" for family in families),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert launched.returncode == 0, launched.stderr
    results = json.loads(launched.stdout)  # one process prints
    assert results == json.loads((out / "results.json").read_text())
    assert list(results["models"]) == families
    for model in results["models"].values():
        assert set(model["methods"]) == {*quickstart.METHODS, "sdrpn[gate_threshold=0.0]"}
    assert (results["n"], results["seed"], results["processes"]) == (6, 1, 2)
    labeling = f"labeling {small_quickstart.SIZES['N_LABELS']} questions"
    assert launched.stderr.count(labeling) == len(families)
    for family in families:
        kinds = {path.name.partition("-")[0] for path in (out / family / "pictures").iterdir()}
        assert kinds <= {"helped", "not_needed", "wrong"}
        config = json.loads((out / family / "gate/rpn/config.json").read_text())
        assert config["gate"]["labels"] == "utility"
        assert config["gate"]["calibration"]["n"] == small_quickstart.SIZES["N_CALIBRATION"]
    # RPNs of few labels are wrong somewhere; of one family's six questions, not always.
    assert list(out.glob("*/pictures/wrong-*.png" if len(families) > 1 else "*/pictures/*.png"))
    report = (out / "report.md").read_text()
    assert ("## All models" in report) == (len(families) > 1)

    for name, size in small_quickstart.SIZES.items():
        monkeypatch.setattr(quickstart, name, size)
    logged: list[str] = []
    kept = [*(out / "llava/labels").iterdir(), *(out / "llava/utility").iterdir()]
    shards = {p: p.stat().st_mtime_ns for p in kept}
    second = quickstart.run_quickstart(out, n=6, seed=2, log=logged.append, families=["llava"])
    assert second.results["seed"] == 2
    assert list(second.results["models"]) == ["llava"]
    assert shards == {p: p.stat().st_mtime_ns for p in kept}
    assert all(path.is_file() for path in second.overlays)
    quickstart_command._print(results, tmp_path)
    printed = " ".join(capsys.readouterr().out.split())
    for model in families:
        assert f"{model}: " in printed


def test_quickstart_names_the_families_before_it_starts(tmp_path):
    logged: list[str] = []
    with pytest.raises(UnknownNameError, match=r"embedded backbone 'lava'.*llava"):
        quickstart.run_quickstart(tmp_path, n=1, seed=0, log=logged.append, families=["lava"])
    assert not logged
    with pytest.raises(UnknownNameError, match="qwen2_5_vl"):
        rpn_dir("qwen")


def test_a_gain_is_one_sentence():
    methods = {
        "baseline": {"accuracy": 0.1},
        "sdrpn": {"accuracy": 0.9, "difference": {"interval": [0.2, 0.9]}},
    }
    assert gain_line("model", {"methods": methods}, "sdrpn") == (
        "model: 10.0% -> 90.0%, +80.0 points (95% paired interval +20.0 to +90.0)"
    )


def test_quickstart_has_help():
    import typer

    app = typer.Typer()
    app.command()(quickstart_command.quickstart)
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "--seed" in result.output
