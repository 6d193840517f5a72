"""The example is what a third party has: two wheels in an environment, and no working tree."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.docs.fences import shell_lines
from tests.environments import ROOT, build_wheel, clean_environment, run

pytestmark = pytest.mark.slow

PROJECT = ROOT / "examples" / "sdrpn-internvl"
MAX_ADAPTER_LINES = 100

#: What the walkthrough's words stand for here.
STANDS_FOR = {"DATA.jsonl": "data.jsonl", "photo.jpg": "images/00000.png", "200": "16"}
#: A random model says much, and looks everywhere: short responses, and boxes of any size.
BRIEF = ("--max-new-tokens", "4")
ANYWHERE = ("--recipe-option", "foreground=0.9", "--recipe-option", "max_box_fraction=1")
ADDED = {"heads": (*BRIEF, *ANYWHERE), "label": BRIEF, "ask": BRIEF}

#: Writes the example's tiny model as an ordinary Hugging Face folder.
SAVE_MODEL = """
import sys
from tiny_internvl import tiny_internvl
backbone = tiny_internvl()
backbone.model.save_pretrained(sys.argv[1])
backbone.processor.save_pretrained(sys.argv[1])
"""

#: Runs a list of commands in one process; the first that fails ends it.
RUN_COMMANDS = """
import json, sys
from sdrpn_core.cli.main import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as end:
        if end.code:
            sys.exit(f"{words}: exit status {end.code}")
"""


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment with sdrpn's wheel and the example's."""
    example = build_wheel(PROJECT, tmp_path_factory.mktemp("example"))
    return clean_environment(tmp_path_factory.mktemp("third-party"), wheel, example)


def test_it_is_listed_beside_what_ships(python, tmp_path):
    listing = json.loads(run(python.with_name("sdrpn"), "plugins", "--json", cwd=tmp_path))
    (info,) = [info for info in listing if info["origin"] == "sdrpn-internvl"]
    assert (info["name"], info["status"]) == ("internvl", "ok")
    assert info["registers"] == {"backbones": ["internvl"]}


@pytest.mark.long  # the contract, which every family that ships passes in each run
def test_its_own_tests_pass(python):
    cacheless = ("-p", "no:cacheprovider")
    output = run(python, "-m", "pytest", *cacheless, "-q", cwd=PROJECT, timeout=600)
    assert " passed" in output
    assert " failed" not in output


def test_the_commands_of_the_walkthrough_run_on_it(python, tmp_path):
    """Heads, labels, an RPN and an answer for a family that nothing in sdrpn has heard of."""
    run(python, "-c", SAVE_MODEL, str(tmp_path / "MODEL"), cwd=PROJECT / "tests")
    lines = [line for line in shell_lines("CONTRIBUTING.md") if line.startswith("sdrpn ")]
    assert [line.split()[1] for line in lines] == ["plugins", "heads", "label", "train", "ask"]
    commands = [["glyphs", ".", "--n", "12"]]
    for line in lines:
        name, *words = shlex.split(line)[1:]
        commands.append(
            [name, *(STANDS_FOR.get(word, word) for word in words), *ADDED.get(name, ())]
        )
    print(run(python, "-c", RUN_COMMANDS, json.dumps(commands), cwd=tmp_path, timeout=600))
    for made in ("recipe.json", "recipe.png", "runs/labels/manifest.json"):
        assert (tmp_path / made).is_file()
    config = json.loads((tmp_path / "runs/rpn/rpn/config.json").read_text())
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    assert (config["branch"], config["n_layers"]) == (recipe["branch"], recipe["n_layers"])


def test_nothing_private_is_imported_and_the_adapter_is_short():
    sources = sorted((PROJECT / "src").rglob("*.py"))
    lines = [line for path in sources for line in path.read_text().splitlines()]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert all(line.startswith("from sdrpn_core import ") for line in imports), imports
    assert 0 < len(lines) < MAX_ADAPTER_LINES
