"""Rules of the architecture, checked on the source: they hold for code no other test reaches."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
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
#: No plugin of sdrpn, which would load it with every command: it adds something to transformers.
FOR_TRANSFORMERS = {"sdrpn_pipeline"}
HEAVY = {"torch", "torchvision", "transformers", "numpy", "PIL", "timm", "datasets", "matplotlib"}


#: What a room of the core may import, beside itself and ``errors``. Every arrow points down.
ARROWS = {
    "util": "",
    "plugins": "",
    "distributed": "",
    "grid": "plugins",
    "data": "grid plugins util",
    "labels": "grid plugins util",
    "crops": "grid plugins util",
    "backbone": "crops labels data grid plugins util distributed",
    "runtime": "backbone grid util",
    "taps": "runtime backbone labels grid util",
    "shards": "data grid util distributed",
    "labeling": "shards taps runtime backbone labels data grid plugins util distributed",
    "head_finding": "taps runtime backbone labels data grid plugins util distributed",
    "gate": "taps runtime backbone labels grid plugins util",
    "rpn": "gate taps runtime backbone crops labels grid plugins util",
    "answering": "rpn gate taps runtime backbone crops labels data grid plugins util",
    "utility": (
        "answering shards rpn gate taps runtime backbone crops labels data grid plugins util "
        "distributed"
    ),
    "training": (
        "utility rpn gate labeling shards taps runtime backbone crops labels data grid plugins "
        "util distributed"
    ),
    "cli": (
        "answering utility training rpn gate head_finding labeling shards taps runtime backbone "
        "crops labels data grid plugins util distributed"
    ),
    "testing": (
        "answering training rpn gate taps runtime backbone crops labels data grid plugins util"
    ),
}
MAX_TOP_MODULES = 6


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_source = pytest.mark.parametrize("path", SOURCES, ids=named)
each_core_source = pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=named)


def matches(pattern: re.Pattern[str], path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return [f"{number}: {line}" for number, line in enumerate(lines, 1) if pattern.search(line)]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:  # relative: the package itself
            yield node.module or ""


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))


def room(module: str) -> str:
    """The folder of a module of the core, or the module itself where it lies in none."""
    return module.split(".")[1]


def core_modules() -> dict[str, Path]:
    paths = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in CORE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


@cache
def core_imports() -> dict[str, set[str]]:
    """Imports among the core's modules: lazy ones and those of type checkers count, too."""
    modules = core_modules()
    imports: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for node in ast.walk(parsed(path)):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{named(path)}: write the whole name of the module"
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [one if one in modules else node.module or "" for one in whole]
            imports[name] |= {one for one in targets if one in modules and one != name}
    return imports


def test_there_is_something_to_check():
    assert {"sdrpn_llava", "sdrpn_bench", "sdrpn_glyphs"} <= {path.name for path in PACKAGES}
    assert len(SOURCES) > 20


def test_the_rooms_of_the_core_are_those_on_the_map():
    assert {path.parent.name for path in CORE.glob("*/__init__.py")} == set(ARROWS)
    assert len(list(CORE.glob("*.py"))) <= MAX_TOP_MODULES


@pytest.mark.parametrize("name", ARROWS)
def test_a_room_imports_only_what_lies_below_it(name):
    allowed = {name, "errors", *ARROWS[name].split()}
    found = {
        (module, target)
        for module, targets in core_imports().items()
        if module.startswith(f"sdrpn_core.{name}.")
        for target in targets
        if target == "sdrpn_core" or room(target) not in allowed
    }
    # The command line shows the version, which is the package's own.
    assert found <= {("sdrpn_core.cli.main", "sdrpn_core")}


def test_the_arrows_between_the_rooms_form_no_circle():
    below = {name: arrows.split() for name, arrows in ARROWS.items()}
    assert list(TopologicalSorter(below).static_order())


def test_the_imports_of_the_core_form_no_circle():
    imports = core_imports()
    assert sum(map(len, imports.values())) > 200
    assert list(TopologicalSorter(imports).static_order())


@pytest.mark.parametrize("name", ARROWS)
def test_a_room_says_what_lives_there_and_what_it_may_import(name):
    """The first line says the former, the third the latter; nothing is imported on the way in."""
    tree = ast.parse((CORE / name / "__init__.py").read_text())
    text = ast.get_docstring(tree) or ""
    assert re.match(r"[^\n]+\.\n\nMay import ", text), text
    sentence = text.split("\n\n")[1]
    names = set(re.findall(r"``(\w+)``", sentence))
    allowed = {"errors", *ARROWS[name].split()}
    if "every room but" in sentence:
        names = {*ARROWS, "errors"} - {name} - names
    assert names == allowed


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
    for node in ast.walk(parsed(path)):
        bare = isinstance(node, ast.ExceptHandler) and node.type is None
        assert not bare, f"line {node.lineno}: bare except"
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: raise a typed error instead"


LOADED_BY_SDRPN = [path for path in (CORE, *PACKAGES) if path.name not in FOR_TRANSFORMERS]


@pytest.mark.parametrize("package", LOADED_BY_SDRPN, ids=lambda package: package.name)
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


def test_the_modules_of_commands_are_light():
    """Or ``sdrpn COMMAND --help`` would take seconds."""
    commands = [path for path in SOURCES if path.name.endswith("_command.py")]
    assert len(commands) > 15
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        f"    slow = {HEAVY - {'numpy', 'PIL'}!r} & set(sys.modules)\n"
        "    if slow:\n"
        "        sys.exit(f'{name} loads {slow}')\n"
    )
    # A package of the core is named from the root, others from the folder beside it.
    names = [
        ".".join(path.relative_to(ROOT if path.is_relative_to(CORE) else path.parents[1]).parts)
        for path in commands
    ]
    names = [name.removesuffix(".py") for name in names]
    result = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr


def test_what_is_made_for_transformers_is_no_plugin():
    entry_points = importlib.metadata.distribution("sdrpn").entry_points.select(group="sdrpn")
    assert {path.name for path in PACKAGES} >= FOR_TRANSFORMERS
    assert not FOR_TRANSFORMERS & {entry.value.partition(".")[0] for entry in entry_points}


@pytest.mark.parametrize("name", sdrpn_core.__all__)
def test_every_public_name_resolves(name):
    assert getattr(sdrpn_core, name) is not None
    assert name in dir(sdrpn_core)


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="sdrpn_core attribute nothing"):
        _ = sdrpn_core.nothing
