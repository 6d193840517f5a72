"""LLaVA-1.5 for sdrpn."""

from __future__ import annotations

SDRPN_API = 1
