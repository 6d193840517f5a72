"""What was published for SD-RPN (arXiv:2509.16944), by preset of the backbone and data set.

Thresholds are those of the published evaluation scripts (github.com/YuHengsss/SD-RPN); scores are
percent, without and with the RPN, of the paper's tables. Qwen2.5-VL was run at 576 visual tokens,
and HR-Bench on the 7B model at up to 4096.
"""

from __future__ import annotations

from typing import Any

__all__ = ["published_on"]

_DATASETS = (
    "docvqa",
    "chartqa",
    "ocrbench",
    "infovqa",
    "textvqa",
    "vstar",
    "pope",
    "hrbench4k",
    "hrbench8k",
)
"""The columns of the tables below."""

_LLAVA_THRESHOLDS = (0.1, 0.15, 0.05, 0.15, 0.15, 0.1, 0.15, 0.1, 0.1)
_THRESHOLDS = {
    "llava-1.5-7b": _LLAVA_THRESHOLDS,
    "llava-1.5-13b": _LLAVA_THRESHOLDS,
    "qwen2.5-vl-3b": (0.1, 0.1, 0.03, 0.1, 0.15, 0.175, 0.1, 0.1, 0.1),
    "qwen2.5-vl-7b": (0.1, 0.1, 0.05, 0.1, 0.075, 0.075, 0.1, 0.03, 0.03),
}

_BASELINE = {
    "llava-1.5-7b": (21.5, 18.1, 31.4, 20.4, 46.1, 50.3, 85.9, 37.5, 33.8),
    "llava-1.5-13b": (23.5, 18.1, 33.7, 23.4, 48.7, 50.8, 85.9, 43.0, 36.6),
    "deepseek-vl-1.3b": (37.0, 48.6, 38.9, 21.7, 55.8, 42.9, 86.1, 36.8, 30.1),
    "deepseek-vl-7b": (50.7, 61.4, 42.4, 30.4, 63.0, 42.4, 86.0, 44.5, 39.3),
    "qwen2.5-vl-3b": (87.1, 82.6, 73.8, 62.7, 76.9, 73.3, 87.8, 66.3, 58.9),
    "qwen2.5-vl-7b": (92.0, 82.6, 81.5, 70.2, 81.1, 78.0, 86.7, 72.5, 63.6),
}
_SDRPN = {
    "llava-1.5-7b": (33.9, 20.1, 37.0, 22.0, 58.7, 67.5, 87.1, 48.0, 39.1),
    "llava-1.5-13b": (39.7, 21.4, 38.8, 24.7, 62.3, 62.3, 87.3, 52.8, 43.6),
    "deepseek-vl-1.3b": (52.9, 51.3, 40.7, 24.2, 65.9, 55.0, 87.6, 46.3, 35.4),
    "deepseek-vl-7b": (66.7, 63.6, 47.9, 36.2, 71.5, 52.4, 87.6, 50.3, 46.0),
    "qwen2.5-vl-3b": (89.5, 83.8, 76.3, 67.0, 79.7, 81.2, 88.9, 73.1, 65.3),
    "qwen2.5-vl-7b": (93.6, 85.5, 82.9, 76.9, 83.5, 89.5, 88.4, 78.5, 73.5),
}


def published_on(dataset: str) -> dict[str, dict[str, Any]]:
    """What was published on a data set: by preset the threshold and the scores by method."""
    column = _DATASETS.index(dataset)
    return {
        preset: {
            "threshold": _THRESHOLDS[preset][column] if preset in _THRESHOLDS else None,
            "scores": {"baseline": _BASELINE[preset][column], "sdrpn": _SDRPN[preset][column]},
        }
        for preset in _BASELINE
    }
