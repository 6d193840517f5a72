"""The documentation site: built strictly from the repository's pages, with every public name."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from markdown_it import MarkdownIt

from tests.docs.fences import ROOT

pytest.importorskip("mkdocs", reason="needs the extra docs")
pytest.importorskip("mkdocstrings_handlers.python", reason="needs the extra docs")

STUB = ROOT / "sdrpn_core/__init__.pyi"

#: What mkdocs may print: anything else would be a warning.
LOG = re.compile(r"INFO +-  (Cleaning site directory|Building documentation|Documentation built)")


class Page(HTMLParser):
    """What a page of the site holds: anchors, what it loads, and how many of which blocks.

    Attributes:
        ids: the anchors.
        loads: addresses of scripts, styles, images and preconnected servers.
        blocks: start tags within the article.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.loads: list[str] = []
        self.blocks: list[str] = []
        self.in_article = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {values["id"]} if values.get("id") else set()
        self.in_article |= tag == "article"
        if tag in ("script", "img", "source", "iframe") and values.get("src"):
            self.loads.append(values["src"] or "")
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(values.get("href") or "")
        if self.in_article:
            self.blocks.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.in_article &= tag != "article"


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_files", ROOT / "docs/site_files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a network: any proxy that it would go through does not exist."""
    out = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 0, "\n".join(lines)
    assert [line for line in lines if not LOG.match(line)] == []
    return out


def public_names() -> set[str]:
    stub = ast.parse(STUB.read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_the_reference_has_every_public_name(site: Path) -> None:
    anchors = set()
    for path in site.glob("reference/*/index.html"):
        anchors |= Page(path).ids
    assert len(public_names()) > 50
    assert {f"sdrpn_core.{name}" for name in public_names()} - anchors == set()


def test_cross_references_of_docstrings_are_not_shown_as_markup(site: Path) -> None:
    pages = sorted(site.glob("reference/*/index.html"))
    assert len(pages) > 10
    for path in pages:
        assert not re.search(r":(attr|class|data|func|meth|mod):", path.read_text("utf-8")), path


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for path in pages:
        loads = Page(path).loads
        assert loads
        assert [one for one in loads if "//" in one] == [], path
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", styles)


def test_every_page_of_the_repository_is_in_the_site(site: Path, hook: ModuleType) -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    assert len(pages) > 15
    for path in pages:
        folder = "" if path.stem == "README" else path.stem
        assert (site / folder / "index.html").is_file(), path


def pages_written() -> list[str]:
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


@pytest.mark.parametrize("name", pages_written())
def test_a_page_has_the_blocks_that_it_has_on_github(site: Path, name: str) -> None:
    """Two dialects of Markdown: a list or table that only one of them sees would be a blot."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse((ROOT / name).read_text("utf-8"))
    stem = Path(name).stem
    found = Page(site / ("" if stem == "README" else stem) / "index.html").blocks
    for token, tag in [("list_item_open", "li"), ("tr_open", "tr"), ("heading_open", "h[1-6]")]:
        expected = sum(one.type == token for one in tokens)
        assert sum(re.fullmatch(tag, one) is not None for one in found) == expected, tag
    fences = sum(one.type in ("fence", "code_block") for one in tokens)
    assert found.count("pre") == fences


def test_the_pages_of_the_hook_are_all_rooms_with_public_names(hook: ModuleType) -> None:
    listed = [name for names in hook.public_names().values() for name in names]
    assert sorted(listed) == sorted(public_names())
