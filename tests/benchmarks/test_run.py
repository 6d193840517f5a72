"""Benchmarks run one after the other; one that fails stops none, and leaves no figures."""

from __future__ import annotations

import json

import pytest
import run
from result_files import result_path
from run_facts import machine_facts
from suite import Script, Table

GOOD = """print('{{"benchmark": "{name}", "ratio": 1.5}}')"""
FAILING = GOOD + "\nimport sys\nsys.exit('out of ink')"
NOT_JSON = GOOD + "\nprint('Loading ...')"
NO_KIND = "print('{{\"ratio\": 1.5}}')"
SILENT = "pass"
DRAWING = GOOD + "\nimport pathlib, sys\npathlib.Path(sys.argv[2], 'plot.png').write_text('drawn')"


@pytest.fixture
def script(tmp_path):
    def made(name, code, plot=None):
        text = f'"""What {name} costs."""\n' + code.format(name=name)
        (tmp_path / f"{name}.py").write_text(text)
        return Script(name, (Table(name, {"ratio": "time"}),), plot, folder=tmp_path)

    return made


def page(folder):
    return (folder / run.PAGE).read_text("utf-8")


def test_rows_go_to_a_file_and_the_page(script, tmp_path, capsys):
    scripts = [script("reading", GOOD)]
    assert run.run_all(scripts, scripts, tmp_path / "out", quick=False) == []
    first, *rows = result_path(tmp_path / "out", "reading").read_text("utf-8").splitlines()
    assert json.loads(first)["run"]["machine"] == machine_facts()
    assert [json.loads(row) for row in rows] == [{"benchmark": "reading", "ratio": 1.5}]
    assert "| time |\n| --- |\n| 1.50 |" in page(tmp_path / "out")
    assert "[1/1] reading ... 0 s, 1 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "plot", "complaint"),
    [
        pytest.param(FAILING, None, "exit status 1\nout of ink", id="error"),
        pytest.param(NOT_JSON, None, "not JSON: 'Loading ...'", id="not JSON"),
        pytest.param(NO_KIND, None, "of which benchmark", id="no kind"),
        pytest.param(SILENT, None, "printed no rows", id="silent"),
        pytest.param(GOOD, "plot.png", "did not draw plot.png", id="no plot"),
    ],
)
def test_a_failure_leaves_no_figures_and_stops_no_other(
    script, tmp_path, capsys, code, plot, complaint
):
    earlier = script("reading", DRAWING if plot else GOOD, plot)
    run.run_all([earlier], [earlier], tmp_path, quick=False)
    scripts = [script("reading", code, plot), script("writing", GOOD)]
    assert run.run_all(scripts, scripts, tmp_path, quick=False) == ["reading"]
    assert complaint in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["writing.jsonl"]
    assert page(tmp_path).count("1.50") == 1
    assert "No results" in page(tmp_path)


def test_a_run_of_some_keeps_the_results_of_the_others(script, tmp_path):
    scripts = [script("drawing", DRAWING, "plot.png"), script("reading", GOOD)]
    run.run_all(scripts, scripts, tmp_path, quick=False)
    kept = {path: path.read_bytes() for path in (tmp_path / "results").glob("[dp]*")}
    assert len(kept) == 2
    script("drawing", FAILING)
    run.run_all(scripts, scripts[1:], tmp_path, quick=False)
    assert {path: path.read_bytes() for path in kept} == kept
    assert page(tmp_path).count("1.50") == 2


def test_the_command_chooses_by_name_and_fails_with_a_script(script, tmp_path, monkeypatch, capsys):
    scripts = (script("reading", GOOD), script("writing", FAILING))
    monkeypatch.setattr(run, "SCRIPTS", scripts)
    run.main(["--only", "reading", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="failed: writing"):
        run.main(["--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        run.main(["--only", "nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


def test_quick_results_are_kept_apart(monkeypatch):
    folders = []
    monkeypatch.setattr(run, "run_all", lambda *args, quick: folders.append((args[2], quick)) or [])
    run.main([])
    run.main(["--quick"])
    assert folders == [(run.HERE, False), (run.QUICK_FOLDER, True)]
    assert run.HERE not in run.QUICK_FOLDER.parents


def test_facts_about_the_machine():
    facts = machine_facts()
    assert {"CPU", "memory", "processors", "system", "python", "sdrpn", "torch"} <= set(facts)
    assert all(isinstance(value, str) and value for value in facts.values())
