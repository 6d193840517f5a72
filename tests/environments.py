"""Wheels, and new environments that hold them: what a user has, without the working tree."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*words: str | Path, cwd: Path, timeout: float = 300) -> str:
    """Output of a command that must succeed, without this process's ``PYTHONPATH``."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build_wheel(project: Path, folder: Path) -> Path:
    """A wheel of a project; hatchling comes with the test extra, so nothing is fetched."""
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    run(*build, project, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def clean_environment(folder: Path, *wheels: Path) -> Path:
    """Python of a new environment with the wheels, and this one's dependencies behind it."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", *wheels, cwd=folder)
    # A .pth line adds the folder alone: the editable install's own .pth in it is not followed.
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", purelib, cwd=folder).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python
