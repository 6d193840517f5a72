"""Finding the heads that look at what a question is about, and the layer to branch off at."""

from __future__ import annotations

from sdrpn_core.head_finding.finder import find_heads
from sdrpn_core.head_finding.report import HeadReport, HeadScore, JointScore

__all__ = ["HeadReport", "HeadScore", "JointScore", "find_heads"]
