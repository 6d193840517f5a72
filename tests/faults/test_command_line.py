"""Whatever is typed, and however a file was edited: a line that says what is wrong, or the right
result, within bounds of time. Some of the cases run with every ``make test``, all of them under
the marker ``faults``.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.hostile_cases import Case, all_cases
from tests.faults.hostile_commands import LONGEST, build_workspace, copied, expected, judge

SDRPN = Path(sys.executable).with_name("sdrpn")
FIGURES: Counter[str] = Counter()
CASES = {case.name: case for case in all_cases()}

#: One of each kind, and those that were found by hand.
SHORT = (
    "policy bbox threshold=abc",
    "policy bbox threshold=[]",
    "policy bbox threshold=nan",
    "option roi --device 'nope'",
    "option roi --device 'meta'",
    "option roi --device 'mps'",
    "option roi --dtype 'float31'",
    "size ask --max-new-tokens '0'",
    "rpn branch billion",
    "rpn head 5",
    "rpn head null",
    "rpn head list",
    "rpn policy null",
    "rpn policy_options.threshold text",
    "rpn backbone text",
    "rpn loss bce",
    "identity reduced to name",
    "weights bool",
    "weights int64",
    "json old/config.json nested",
    "json labels/manifest.json nested",
    "json recipe.json nested",
    "manifest shard_size 1.5",
    "manifest records nan",
    "manifest records trillion",
    "log line nested",
    "item line nested",
    "checkpoint renamed",
    "word ask QUESTION surrogate",
)
#: As a user starts the program: a process each.
WHOLE = (
    *SHORT[::2],
    "word label DATA nul",
    "word ask IMAGE surrogate",
    "word ask --model escape",
    "word command ''",
    "setting betas=abc",
    "recipe recipe.grounding nested",
    "state step null",
    "record line nested",
    "weights cut at 0.5",
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    build_workspace(folder)
    yield folder
    expected.cache_clear()
    print(f"\nhostile command lines: {sum(FIGURES.values())} invocations, {dict(FIGURES)}")


def check(case: Case, workspace: Path, folder: Path) -> None:
    outcome = judge(case, workspace, folder)
    FIGURES[outcome.kind] += 1
    assert outcome.is_right, f"{outcome.kind}: {outcome.detail}"


@pytest.mark.parametrize("name", SHORT)
def test_a_hostile_invocation_is_one_line(workspace: Path, tmp_path: Path, name: str):
    check(CASES[name], workspace, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("name", sorted(CASES.keys() - set(SHORT)))
def test_any_hostile_invocation_is_one_line(workspace: Path, tmp_path: Path, name: str):
    check(CASES[name], workspace, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("name", WHOLE)
def test_the_installed_program_says_one_line(workspace: Path, tmp_path: Path, name: str):
    case = CASES[name]
    copied(workspace, tmp_path)
    if case.edit is not None:
        case.edit(tmp_path)
    words = [word.replace("{w}", str(tmp_path)) for word in case.words]
    if any("\0" in word for word in words):
        pytest.skip("no shell can pass a NUL")
    ran = subprocess.run(
        [SDRPN, *words], capture_output=True, text=True, errors="replace", timeout=LONGEST
    )
    assert "Traceback" not in ran.stderr
    if ran.returncode == 1:
        assert ran.stderr.splitlines()[-1].startswith("error: ")
    else:
        assert ran.returncode == 2 or (case.allows != "nothing" and ran.returncode == 0)
