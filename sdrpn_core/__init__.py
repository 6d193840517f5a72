"""sdrpn teaches a frozen multimodal LLM where to look.

Every public name is imported on first use, so that ``import sdrpn_core`` needs neither torch nor
transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdrpn_core.answering import Answer, answer, answer_batch
    from sdrpn_core.attention_tap import AttentionTap
    from sdrpn_core.backbone import Backbone, ImageInput, Question
    from sdrpn_core.crops import BboxPolicy, Crop, CropPlan, CropPolicy, MaskPolicy, Outcome
    from sdrpn_core.errors import (
        AttentionError,
        CheckpointError,
        ConfigError,
        ImageError,
        InputError,
        MissingExtraError,
        PluginError,
        SdrpnError,
        ShardError,
        UnknownNameError,
    )
    from sdrpn_core.feature_tap import FeatureTap
    from sdrpn_core.geometry import Geometry, Letterboxed, PaddedSquare, Resized
    from sdrpn_core.head_finding import HeadReport, find_heads
    from sdrpn_core.hookspecs import hookimpl
    from sdrpn_core.images import open_image
    from sdrpn_core.label_shards import LabelDataset
    from sdrpn_core.label_stage import label
    from sdrpn_core.labels import LabelRecipe, pseudo_labels
    from sdrpn_core.loading import load_backbone
    from sdrpn_core.overlay import draw_overlay
    from sdrpn_core.plugins import get_plugins
    from sdrpn_core.prefix_store import PrefixStore
    from sdrpn_core.preset import Preset
    from sdrpn_core.proposers import AttentionProposer, Proposal, Proposer, RPNProposer
    from sdrpn_core.records import Record, read_records
    from sdrpn_core.roi_map import RoIMap
    from sdrpn_core.roi_prediction import predict_roi
    from sdrpn_core.rpn import RPN, RPNConfig
    from sdrpn_core.streaming import answer_stream
    from sdrpn_core.train_stage import train
    from sdrpn_core.training.settings import TrainingSettings

__version__ = "0.1.0"

__all__ = [
    "RPN",
    "Answer",
    "AttentionError",
    "AttentionProposer",
    "AttentionTap",
    "Backbone",
    "BboxPolicy",
    "CheckpointError",
    "ConfigError",
    "Crop",
    "CropPlan",
    "CropPolicy",
    "FeatureTap",
    "Geometry",
    "HeadReport",
    "ImageError",
    "ImageInput",
    "InputError",
    "LabelDataset",
    "LabelRecipe",
    "Letterboxed",
    "MaskPolicy",
    "MissingExtraError",
    "Outcome",
    "PaddedSquare",
    "PluginError",
    "PrefixStore",
    "Preset",
    "Proposal",
    "Proposer",
    "Question",
    "RPNConfig",
    "RPNProposer",
    "Record",
    "Resized",
    "RoIMap",
    "SdrpnError",
    "ShardError",
    "TrainingSettings",
    "UnknownNameError",
    "answer",
    "answer_batch",
    "answer_stream",
    "draw_overlay",
    "find_heads",
    "get_plugins",
    "hookimpl",
    "label",
    "load_backbone",
    "open_image",
    "predict_roi",
    "pseudo_labels",
    "read_records",
    "train",
]

_MODULES = {
    "answering": ("Answer", "answer", "answer_batch"),
    "attention_tap": ("AttentionTap",),
    "backbone": ("Backbone", "ImageInput", "Question"),
    "crops": ("BboxPolicy", "Crop", "CropPlan", "CropPolicy", "MaskPolicy", "Outcome"),
    "errors": (
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
    ),
    "feature_tap": ("FeatureTap",),
    "geometry": ("Geometry", "Letterboxed", "PaddedSquare", "Resized"),
    "head_finding": ("HeadReport", "find_heads"),
    "hookspecs": ("hookimpl",),
    "images": ("open_image",),
    "label_shards": ("LabelDataset",),
    "label_stage": ("label",),
    "labels": ("LabelRecipe", "pseudo_labels"),
    "loading": ("load_backbone",),
    "overlay": ("draw_overlay",),
    "plugins": ("get_plugins",),
    "prefix_store": ("PrefixStore",),
    "preset": ("Preset",),
    "proposers": ("AttentionProposer", "Proposal", "Proposer", "RPNProposer"),
    "records": ("Record", "read_records"),
    "roi_map": ("RoIMap",),
    "roi_prediction": ("predict_roi",),
    "rpn": ("RPN", "RPNConfig"),
    "streaming": ("answer_stream",),
    "train_stage": ("train",),
    "training.settings": ("TrainingSettings",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # found at once the next time
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
