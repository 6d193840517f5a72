"""Cross-model benchmark runner for sdrpn."""

from __future__ import annotations

SDRPN_API = 1
