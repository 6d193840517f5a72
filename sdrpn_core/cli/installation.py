"""What this installation can do: packages, devices, attention implementations, plugins, extras."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sdrpn_core.errors import SdrpnError
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_core.util.formatting import readable_bytes

__all__ = ["DISTRIBUTION", "Finding", "examine"]

DISTRIBUTION = "sdrpn"

#: Extras for work on sdrpn itself, and the one that stands for the others.
_NOT_SHOWN = ("all", "dev", "docs", "test")

#: What importing a package raises whose files, libraries or dependencies do not fit together.
_IMPORT_ERRORS = (ImportError, OSError, RuntimeError, AttributeError, TypeError, ValueError)

Status = Literal["ok", "missing", "failed", "disabled"]
"""``missing``: could be had, but is not needed. ``failed``: something does not work that should."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        kind: ``package``, ``device``, ``attention``, ``plugin`` or ``extra``.
        name: what it is.
        status: whether it works here.
        detail: version, or why it does not work.
        remedy: what to do about it; empty if there is nothing to do.
    """

    kind: str
    name: str
    status: Status
    detail: str = ""
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything; nothing that is broken raises an error."""
    try:
        requirements = _requirements()
    except importlib.metadata.PackageNotFoundError:
        remedy = f"pip install {DISTRIBUTION}"
        return [Finding("package", DISTRIBUTION, "failed", "is not installed", remedy)]
    found = list(_packages(requirements))
    torch, finding = _import("torch")
    if torch is None:
        found.append(finding)
    else:
        found += [*_devices(torch), *_attention(torch)]
    return [*found, *_plugins(), *_extras(requirements)]


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in importlib.metadata.requires(DISTRIBUTION) or ()]


def _packages(requirements: list[Requirement]) -> Iterator[Finding]:
    """The packages that sdrpn cannot do without."""
    yield Finding("package", DISTRIBUTION, "ok", importlib.metadata.version(DISTRIBUTION))
    for one in requirements:
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            problem = _problem(one)
            detail = problem or _installed(one.name) or ""
            remedy = f"pip install '{one.name}{one.specifier}'" if problem else ""
            yield Finding("package", one.name, "failed" if problem else "ok", detail, remedy)


def _installed(name: str) -> str | None:
    """The version of a distribution; ``None`` if there is none, or its metadata are broken."""
    try:
        return importlib.metadata.version(name) or None
    except (importlib.metadata.PackageNotFoundError, KeyError, TypeError, ValueError):
        return None


def _problem(one: Requirement) -> str:
    version = _installed(one.name)
    if version is None:
        return "is not installed"
    if not one.specifier.contains(version, prereleases=True):
        return f"is {version}, but {one.specifier} is needed"
    return ""


def _import(name: str) -> tuple[Any, Finding]:
    """A module, or ``None``; and what to say if it cannot be imported."""
    try:
        return importlib.import_module(name), Finding("package", name, "ok")
    except _IMPORT_ERRORS as error:
        remedy = f"reinstall it: pip install --force-reinstall {name}"
        return None, Finding("package", name, "failed", f"cannot be imported: {error}", remedy)


def _devices(torch: Any) -> Iterator[Finding]:
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    yield Finding("device", "cpu", "ok", f"{threads}; half precision is slow here: use float32")
    with warnings.catch_warnings(record=True) as caught:  # that is how torch speaks of drivers
        warnings.simplefilter("always")
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(n_devices):
        facts = torch.cuda.get_device_properties(index)
        half = "bfloat16" if facts.major >= _AMPERE else "no bfloat16"
        detail = f"{facts.name}, {readable_bytes(facts.total_memory)}, {half}"
        yield Finding("device", f"cuda:{index}", "ok", detail)
    if not n_devices:
        built = torch.version.cuda
        reason = str(caught[0].message) if caught else "no device found"
        detail = reason if built else "this build of torch is for the CPU alone"
        yield Finding("device", "cuda", "missing", detail)


#: Major compute capability from which a device has bfloat16 and runs flash-attention 2.
_AMPERE = 8


def _attention(torch: Any) -> Iterator[Finding]:
    for name in ("eager", "sdpa"):
        yield Finding("attention", name, "ok")
    name, remedy = "flash_attention_2", f"pip install '{DISTRIBUTION}[flash-attn]'"
    version = _installed("flash-attn")
    if not torch.cuda.is_available():
        yield Finding("attention", name, "missing", "needs a CUDA device")
    elif torch.cuda.get_device_capability()[0] < _AMPERE:
        detail = "needs a CUDA device of compute capability 8.0 or higher"
        yield Finding("attention", name, "missing", detail)
    elif version is None:
        yield Finding("attention", name, "missing", "flash-attn is not installed", remedy)
    else:
        module, finding = _import("flash_attn")
        status: Status = "failed" if module is None else "ok"
        yield Finding("attention", name, status, finding.detail or version, finding.remedy)


def _plugins() -> Iterator[Finding]:
    try:
        infos = get_plugins().infos
    except SdrpnError as error:  # SDRPN_PLUGINS
        yield Finding("plugin", "SDRPN_PLUGINS", "failed", str(error))
        return
    for info in infos:
        source = " ".join(filter(None, (info.origin, info.version)))
        yield Finding("plugin", info.name, info.status, info.error or source)


def _extras(requirements: list[Requirement]) -> Iterator[Finding]:
    names = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    for extra in sorted(set(names) - set(_NOT_SHOWN)):
        needed = list(_needed(extra, requirements))
        lacking = [f"{one.name} {problem}" for one in needed if (problem := _problem(one))]
        if lacking:
            remedy = f"pip install '{DISTRIBUTION}[{extra}]'"
            yield Finding("extra", extra, "missing", ", ".join(lacking), remedy)
        else:
            versions = ", ".join(f"{one.name} {_installed(one.name)}" for one in needed)
            yield Finding("extra", extra, "ok", versions)


def _needed(
    extra: str, requirements: list[Requirement], seen: frozenset[str] = frozenset()
) -> Iterator[Requirement]:
    """The requirements of an extra, those of the extras that it names included."""
    for one in requirements:
        if one.marker is None or not one.marker.evaluate({"extra": extra}):
            continue
        if one.marker.evaluate({"extra": ""}):
            continue  # of sdrpn itself, for some systems
        if canonicalize_name(one.name) != DISTRIBUTION:
            yield one
            continue
        for other in sorted(one.extras - seen):
            yield from _needed(other, requirements, seen | {extra, other})
