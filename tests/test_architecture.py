"""Rules of the architecture, checked on the source: they hold for code no other test reaches."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sdrpn_core

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "sdrpn_core"
PACKAGES = sorted(path.parent for path in ROOT.glob("*/sdrpn_*/__init__.py"))
SOURCES = [path for package in (CORE, *PACKAGES) for path in sorted(package.rglob("*.py"))]

FAMILIES = re.compile(
    r"llava|qwen|deepseek|vicuna|\bllama|\bclip_?vision|siglip|internvl|paligemma", re.IGNORECASE
)
# Folders of one machine or one user; a path in a package is relative, or an argument.
MACHINE_PATH = re.compile(
    r"""["'](?:/(?:home|root|Users|mnt|data|work|tmp|opt|srv)/|[A-Za-z]:\\)"""
)
LEFTOVERS = re.compile(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b")
HEAVY = {"torch", "torchvision", "transformers", "numpy", "PIL", "timm", "datasets", "matplotlib"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_source = pytest.mark.parametrize("path", SOURCES, ids=named)
each_core_source = pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=named)


def matches(pattern: re.Pattern[str], path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return [f"{number}: {line}" for number, line in enumerate(lines, 1) if pattern.search(line)]


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:  # relative: the package itself
            yield node.module or ""


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def test_there_is_something_to_check():
    assert {"sdrpn_llava", "sdrpn_bench", "sdrpn_glyphs"} <= {path.name for path in PACKAGES}
    assert len(SOURCES) > 20


@each_core_source
def test_the_core_names_no_model_family(path):
    assert matches(FAMILIES, path) == []
    assert not FAMILIES.search(named(path))


@each_core_source
def test_the_core_imports_no_backbone_and_no_plugin(path):
    others = {package.name for package in PACKAGES}
    assert [name for name in imported_modules(path) if name.partition(".")[0] in others] == []


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.relative_to(ROOT).parts[0] == "backbones"],
    ids=named,
)
def test_a_backbone_imports_no_other_package_but_the_core(path):
    own = path.relative_to(ROOT).parts[1]
    others = {package.name for package in PACKAGES} - {own}
    assert [name for name in imported_modules(path) if name.partition(".")[0] in others] == []


@each_source
def test_no_machine_paths(path):
    assert matches(MACHINE_PATH, path) == []


@each_source
def test_nothing_is_left_undone(path):
    assert matches(LEFTOVERS, path) == []


@each_source
def test_no_code_is_run_from_data(path):
    assert not {"pickle", "dill", "cloudpickle", "marshal", "shelve"} & set(imported_modules(path))
    for call in calls(path):
        called = ast.unparse(call.func)
        assert called not in {"eval", "exec", "torch.load"}, f"line {call.lineno}: {called}"
        for keyword in call.keywords:
            constant = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            trusting = keyword.arg == "trust_remote_code" and constant is not False
            unpickling = keyword.arg == "allow_pickle" and constant is not False
            assert not trusting, f"line {call.lineno}: trust_remote_code"
            assert not unpickling, f"line {call.lineno}: allow_pickle"


@each_source
def test_no_bare_except_and_no_assert(path):
    for node in ast.walk(ast.parse(path.read_text())):
        bare = isinstance(node, ast.ExceptHandler) and node.type is None
        assert not bare, f"line {node.lineno}: bare except"
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: raise a typed error instead"


@pytest.mark.parametrize("package", [CORE, *PACKAGES], ids=lambda package: package.name)
def test_importing_a_package_is_light(package):
    code = (
        f"import sys, {package.name}\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", sdrpn_core.__all__)
def test_every_public_name_resolves(name):
    assert getattr(sdrpn_core, name) is not None
    assert name in dir(sdrpn_core)


def test_the_public_names_are_those_that_type_checkers_see():
    tree = ast.parse((CORE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname or alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(seen) == set(sdrpn_core.__all__)
    assert len(sdrpn_core.__all__) == len(set(sdrpn_core.__all__))
    for name, module in seen.items():
        assert module == f"sdrpn_core.{sdrpn_core._HOME[name]}"


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'sdrpn_core' has no attribute 'nothing'"):
        _ = sdrpn_core.nothing
