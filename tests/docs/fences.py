"""The Python examples of a Markdown file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]


def python_blocks(name: str) -> list[tuple[int, str]]:
    """Line number and source of every fenced Python block of a file in the project's root."""
    tokens = MarkdownIt().parse((ROOT / name).read_text(encoding="utf-8"))
    return [
        (token.map[0] + 1, token.content)
        for token in tokens
        if token.type == "fence" and token.info.strip() == "python"
    ]


def shown_files(name: str) -> dict[str, str]:
    """Path and content of every fenced block that has a ``title="PATH"``."""
    tokens = MarkdownIt().parse((ROOT / name).read_text(encoding="utf-8"))
    labels = [(t.info.partition(" title=")[2], t.content) for t in tokens if t.type == "fence"]
    return {path.strip('"'): content for path, content in labels if path}


def run_blocks(
    name: str, namespace: dict[str, object], replace: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Execute the Python blocks of a file in order, in one namespace; errors name its lines.

    Args:
        name: the file, relative to the project's root.
        namespace: what the blocks can use, and where they define their names.
        replace: what stands in for texts that name something that is not on this machine.
    """
    blocks = python_blocks(name)
    assert blocks, f"{name} has no Python example"
    for text in replace or {}:
        assert any(text in source for _, source in blocks), f"{name} no longer holds {text}"
    for line, source in blocks:
        for text, other in (replace or {}).items():
            source = source.replace(text, other)
        _run(name, line, source, namespace)
    return namespace


def run_blocks_alone(name: str) -> dict[str, object]:
    """What the Python blocks of a file define, each executed with its own imports alone."""
    defined: dict[str, object] = {}
    for line, source in python_blocks(name):
        namespace: dict[str, object] = {"__name__": f"{name}:{line}"}
        _run(name, line, source, namespace)
        defined.update(namespace)
    assert defined, f"{name} has no Python example"
    return defined


def _run(name: str, line: int, source: str, namespace: dict[str, object]) -> None:
    code = compile("\n" * line + source, str(ROOT / name), "exec", dont_inherit=True)
    exec(code, namespace)  # noqa: S102


def shell_lines(name: str) -> list[str]:
    """The commands of a file's Bash blocks, comments and continued lines resolved."""
    tokens = MarkdownIt().parse((ROOT / name).read_text(encoding="utf-8"))
    blocks = [t.content for t in tokens if t.type == "fence" and t.info.strip() == "bash"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip()]
