"""Synthetic fine-grained VQA, and the small trained backbones that ship with the project.

Cluttered scenes of shapes with marks, questions about the marks, and one model of each family
trained on them, each with an RPN. Importing this package or its data modules imports neither torch
nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdrpn_core import hookimpl
from sdrpn_glyphs.families import check_name

SDRPN_API = 1

ASSETS = Path(__file__).resolve().parent / "assets"


def backbone_dir(family: str = "llava") -> Path:
    """The Hugging Face folder of an embedded backbone; see :mod:`sdrpn_glyphs.families`.

    Raises:
        UnknownNameError: there is none of that name.
    """
    check_name(family)
    return ASSETS / family


def rpn_dir(family: str = "llava") -> Path:
    """The folder of the RPN that was trained for that backbone.

    Raises:
        UnknownNameError: there is none of that name.
    """
    check_name(family)
    return ASSETS / f"{family}-rpn"


__all__ = ["ASSETS", "SDRPN_API", "backbone_dir", "rpn_dir"]


@hookimpl
def sdrpn_register_datasets(registry: Any) -> None:
    """Register the splits, each with its metric."""
    for split, help_line in (
        ("train", "questions of all kinds, for labels and RPN training"),
        ("visible", "test: details that the whole image shows"),
        ("small", "test: details that take a crop"),
        ("mixed", "test: questions of all kinds about objects of all sizes"),
        ("pairs", "test: two small details far apart are compared"),
        ("absent", "test: what is asked about is not there"),
    ):
        registry.add(
            f"glyphs/{split}",
            f"sdrpn_glyphs.records:{split}",
            help=help_line,
            metric="glyphs_answer",
        )


@hookimpl
def sdrpn_register_metrics(registry: Any) -> None:
    """Register the metric of the splits."""
    registry.add(
        "glyphs_answer",
        "sdrpn_glyphs.metric:GlyphsAnswer",
        help="the answer to the kind of question, whatever else a response says (glyphs)",
    )


@hookimpl
def sdrpn_register_presets(registry: Any) -> None:
    """Register the presets of the embedded backbones."""
    for model_type in ("llava", "qwen2_5_vl", "deepseek_vl"):
        registry.add(
            f"glyphs-{model_type}",
            f"sdrpn_glyphs.presets:GLYPHS_{model_type.upper()}",
            model_types=(model_type,),
        )


@hookimpl
def sdrpn_register_commands(registry: Any) -> None:
    """Register the quickstart, the data export and the training of the backbones."""
    registry.add(
        "quickstart",
        "sdrpn_glyphs.quickstart_command:quickstart",
        help="Label, train and compare on the models that ship with sdrpn.",
    )
    registry.add(
        "glyphs",
        "sdrpn_glyphs.export_command:glyphs",
        help="Write glyph images and questions to a folder, as JSONL.",
    )
    registry.add(
        "train-glyphs",
        "sdrpn_glyphs.pretrain_command:train_glyphs",
        help="Train an embedded backbone from scratch.",
    )
