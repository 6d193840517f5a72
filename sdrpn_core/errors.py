"""Every error sdrpn raises on purpose: one line that says what was wrong, where, and what to do.

The command line prints a :class:`SdrpnError` as ``error: <message>`` and exits with code 1. Where a
built-in exception fits, a class derives from it too, so that ``except ValueError`` works.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CORE_PLUGIN",
    "AttentionError",
    "CheckpointError",
    "ConfigError",
    "ImageError",
    "InputError",
    "MissingExtraError",
    "PluginError",
    "SdrpnError",
    "ShardError",
    "UnknownNameError",
]

CORE_PLUGIN = "core"
"""The plugin that brings the core's own parts; it cannot be disabled."""

_MAX_SUGGESTIONS = 3

_MAX_MESSAGE = 4000
"""Characters of a message: a terminal page or two. What is longer is cut in its middle."""


class SdrpnError(Exception):
    """Base of all errors sdrpn raises on purpose; the message is a single line.

    A message quotes names and values that strangers chose. So line ends become spaces, characters
    that cannot be printed (control sequences, half a surrogate pair) are spelled as escapes, and
    what is longer than a page is cut in its middle.

    Args:
        message: What was wrong, where, and what to do.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_printable_line(message))


class InputError(SdrpnError, ValueError):
    """A record, a question or an option has a value that cannot be used."""


class ImageError(InputError):
    """An image is missing, empty, truncated, too large or not an image."""


class ConfigError(SdrpnError, ValueError):
    """A preset, label recipe, RPN config, policy option or setting is invalid."""


class UnknownNameError(SdrpnError, LookupError):
    """A name that no plugin registers.

    The message lists the near names first, then every known one.

    Args:
        kind: What was looked up, for example ``"RPN head"``.
        name: The name that was asked for; shown as it is, should it be no text at all.
        known: The names that exist.
        where: Where the name was written, for example ``"in SDRPN_PLUGINS"``.
        hint: A reason why the name may be missing, for example a plugin that failed to load.
    """

    def __init__(
        self, kind: str, name: object, known: Iterable[str], *, where: str = "", hint: str = ""
    ) -> None:
        self.kind = kind
        self.name = name
        self.known = sorted(known)
        self.near = _near(name, self.known)
        message = " ".join(filter(None, (f"unknown {kind} {name!r}", where)))
        if self.near:
            message += f": did you mean {' or '.join(map(repr, self.near))}?"
        message += f" (known: {', '.join(self.known) or 'none'})"
        if hint:
            message += f"; {hint}"
        super().__init__(message)


class PluginError(SdrpnError):
    """A plugin is at fault; the message names it and what to do.

    Args:
        plugin: The plugin's name: that of its entry point in the group ``sdrpn``.
        reason: What it did wrong.
        remedy: What to do; how to disable the plugin, unless given.
    """

    def __init__(self, plugin: str, reason: str, *, remedy: str = "") -> None:
        self.plugin = plugin
        self.reason = " ".join(reason.split())
        self.remedy = remedy or (
            "it is part of sdrpn itself: reinstall sdrpn"
            if plugin == CORE_PLUGIN
            else f"to disable it, set SDRPN_PLUGINS=-{plugin}"
        )
        super().__init__(f"plugin {plugin!r}: {self.reason}; {self.remedy}")


class CheckpointError(SdrpnError):
    """An RPN checkpoint is broken, or belongs to another backbone."""


class ShardError(SdrpnError):
    """A label shard is corrupt, or contradicts its manifest."""


class AttentionError(SdrpnError):
    """Attention rows hold NaN or infinity."""


class MissingExtraError(SdrpnError, ImportError):
    """An optional dependency is not installed.

    Args:
        feature: What needs it, for example ``"attn_implementation='flash_attention_2'"``.
        extra: The extra of the distribution that installs it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra
        super().__init__(
            f"{feature} needs a package that is not installed: pip install 'sdrpn[{extra}]'"
        )


def _printable_line(text: str) -> str:
    if len(text) > _MAX_MESSAGE:
        left_out = len(text) - _MAX_MESSAGE
        half = _MAX_MESSAGE // 2
        text = f"{text[:half]} ... ({left_out} characters) ... {text[-half:]}"
    line = " ".join(text.split())
    if line.isprintable():
        return line
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in line
    )


def _near(name: object, known: list[str]) -> list[str]:
    """The known names closest to ``name``, best first, ignoring case."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(str(name).lower(), by_lower, n=_MAX_SUGGESTIONS)
    return [by_lower[match] for match in matches]
