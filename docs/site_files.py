"""A hook of mkdocs: which files make the site, and the reference pages of the public names.

Pages keep the paths that they have in the repository, so that links among README, CONTRIBUTING,
``docs/`` and ``benchmarks/`` work in the site as they do on GitHub. In addresses, ``docs/`` is
left out. Reference pages are made from ``sdrpn_core/__init__.pyi``: one per room, with every
name that it makes public.
"""

from __future__ import annotations

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]

#: Glob patterns of all pages and images, relative to the root.
SOURCES = (
    "*.md",
    "docs/*.md",
    "docs/*.png",
    "docs/*.ipynb",
    "benchmarks/*.md",
    "benchmarks/results/*.png",
    "examples/*/README.md",
)


def public_names() -> dict[str, list[str]]:
    """The public names by the room that they live in, in the order of ``__init__.pyi``."""
    stub = ast.parse((ROOT / "sdrpn_core/__init__.pyi").read_text(encoding="utf-8"))
    names: dict[str, list[str]] = {}
    for node in stub.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            room = node.module.partition(".")[0]
            names.setdefault(room, []).extend(alias.name for alias in node.names)
    return names


def reference_pages() -> dict[str, str]:
    """Path and Markdown of the reference pages; mkdocstrings fills in names and docstrings."""
    names = public_names()
    overview = ["# Public names", "", "Everything here is imported from `sdrpn_core`.", ""]
    pages = {}
    for room, listed in sorted(names.items()):
        overview += [f"## [{room}]({room}.md)", "", _summary(room), ""]
        overview += [f"- [`{name}`][sdrpn_core.{name}]" for name in listed] + [""]
        blocks = [f"# {room}", "", _summary(room), ""]
        for name in listed:
            blocks += [f"::: sdrpn_core.{name}", ""]
        pages[f"reference/{room}.md"] = "\n".join(blocks)
    return {"reference/index.md": "\n".join(overview), **pages}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the repository's pages and the reference in the place of what lies in ``docs/``."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        uri = path.relative_to(ROOT).as_posix()
        file = File.generated(config, uri, abs_src_path=str(path))
        file.dest_uri = file.dest_uri.removeprefix("docs/")
        files.append(file)
    for uri, text in reference_pages().items():
        files.append(File.generated(config, uri, content=text))
    return files


def _summary(room: str) -> str:
    """The first line of the docstring of a room or module."""
    package = ROOT / "sdrpn_core" / room / "__init__.py"
    path = package if package.exists() else package.parent.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].replace("``", "`")
