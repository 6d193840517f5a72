"""Golden tests: run over every case of the folder that SDRPN_GOLDEN names, and skip without one.

`golden` is that folder. A test marked `@pytest.mark.golden_files("llava/samples/*.npz")` runs once
for every file that matches, which it gets as `golden_file`. One marked
`@pytest.mark.golden_entries("llava/attention.npz", names_in)` runs once for every name that
`names_in` finds in such a file, and gets it as `golden_entry` beside `golden_file`. `load` reads
one `.npz` completely.

The tests know the layout of a golden folder, not its content: names come from the files, and what
one set happens to hold (a pruned image, a box in the padding) is a skip where another does not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdrpn_core import RPN
from tests.golden.llava import LlavaBackbone, golden_rpn, load_llava
from tests.golden.qwen2_5_vl import Case, load_qwen, read_case
from tests.golden.qwen2_5_vl import golden_rpn as golden_qwen_rpn

_DEFAULT_FOLDER = Path(__file__).parents[3] / "shared" / "golden"


def _folder() -> Path:
    return Path(os.environ.get("SDRPN_GOLDEN") or _DEFAULT_FOLDER).resolve()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "golden_files(pattern): run for each file of the golden folder that matches"
    )
    config.addinivalue_line(
        "markers", "golden_entries(pattern, names_in): run for each name in each matching file"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = _folder()
    if marker := metafunc.definition.get_closest_marker("golden_files"):
        (pattern,) = marker.args
        rows = [((file,), _name(file)) for file in sorted(folder.glob(pattern))]
        arguments = ("golden_file",)
    elif marker := metafunc.definition.get_closest_marker("golden_entries"):
        pattern, names_in = marker.args
        rows = [
            ((file, name), f"{_name(file)}:{name}")
            for file in sorted(folder.glob(pattern))
            for name in names_in(file)
        ]
        arguments = ("golden_file", "golden_entry")
    else:
        return
    params = [pytest.param(*values, id=name) for values, name in rows]
    if not params:
        reason = f"no golden data: nothing matches {pattern} in {folder} (SDRPN_GOLDEN)"
        nothing = [None] * len(arguments)
        params = [pytest.param(*nothing, id=pattern, marks=pytest.mark.skip(reason))]
    metafunc.parametrize(arguments, params)


def _name(file: Path) -> str:
    return file.relative_to(_folder()).as_posix()


def _half(golden: Path, name: str) -> Path:
    folder = golden / name
    if not folder.is_dir():
        pytest.skip(f"no golden data: {golden} has no folder {name} (SDRPN_GOLDEN)")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The golden folder."""
    folder = _folder()
    if not folder.is_dir():
        pytest.skip(f"no golden data: {folder} does not exist (SDRPN_GOLDEN)")
    return folder


@pytest.fixture(scope="session")
def load() -> Callable[[Path], dict[str, Any]]:
    """Reads an `.npz` file into a dictionary of arrays."""

    def read(path: Path) -> dict[str, Any]:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    return read


@pytest.fixture(scope="session")
def llava_folder(golden: Path) -> Path:
    """The half of the golden folder that holds LLaVA."""
    return _half(golden, "llava")


@pytest.fixture(scope="session")
def llava(llava_folder: Path) -> LlavaBackbone:
    """The golden base model, under the attention that transformers chooses."""
    return load_llava(llava_folder, "sdpa")


@pytest.fixture(scope="session")
def llava_rpn(llava_folder: Path, llava: LlavaBackbone) -> RPN:
    """The golden RPN, attached to `llava`."""
    return golden_rpn(llava_folder, llava)


@pytest.fixture(scope="session", params=["sdpa", "eager"])
def any_llava(request: pytest.FixtureRequest, llava_folder: Path) -> LlavaBackbone:
    """The golden base model under each attention implementation."""
    return load_llava(llava_folder, request.param)


@pytest.fixture(scope="session")
def qwen_folder(golden: Path) -> Path:
    """The half of the golden folder that holds Qwen2.5-VL."""
    return _half(golden, "qwen2_5_vl")


@pytest.fixture(scope="session", params=["sdpa", "eager"])
def any_qwen(request: pytest.FixtureRequest, qwen_folder: Path) -> Any:
    """The golden Qwen2.5-VL under each attention implementation, without a processor."""
    return load_qwen(qwen_folder, request.param)


@pytest.fixture
def case(
    golden_file: Path, qwen_folder: Path, load: Callable[[Path], dict[str, Any]], any_qwen: Any
) -> Case:
    """The golden Qwen2.5-VL case of `golden_file`."""
    return read_case(qwen_folder, golden_file, load(golden_file), any_qwen)


@pytest.fixture
def case_rpn(case: Case, qwen_folder: Path) -> RPN:
    """The golden RPN, attached to the case's backbone."""
    return golden_qwen_rpn(qwen_folder, case.backbone)
