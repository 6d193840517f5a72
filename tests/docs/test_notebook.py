"""The notebook: valid, without outputs, and its cells run in order on the model that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest

from tests.docs.fences import ROOT

NOTEBOOK = ROOT / "docs/quickstart.ipynb"


@pytest.fixture(scope="module")
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)


def test_it_is_valid_and_has_no_outputs(notebook: Any) -> None:
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert {cell.execution_count for cell in cells} == {None}


def test_its_cells_run(
    notebook: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            code = compile(cell.source, f"{NOTEBOOK}, cell {number}", "exec", dont_inherit=True)
            exec(code, names)  # noqa: S102
    plt.close("all")

    record, (box,) = names["record"], names["found"].boxes
    (true,) = record.boxes
    assert box[0] <= true[0]
    assert box[1] <= true[1]
    assert box[2] >= true[2]
    assert box[3] >= true[3]
    assert names["found"].text == record.answer != names["plain"].text
    methods = names["results"]["models"]["llava"]["methods"]
    assert methods["sdrpn"]["accuracy"] > 0.8 > 0.4 > methods["baseline"]["accuracy"]
    (crop,) = names["proposal"].plan.crops
    assert crop.box[2] - crop.box[0] > box[2] - box[0]
    assert "expected: " in capsys.readouterr().out
