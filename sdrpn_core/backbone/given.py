"""What callers give as a backbone: one line where it is none."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.errors import ConfigError

__all__ = ["check_backbone"]


def check_backbone(value: object) -> None:
    """Check that a value is a backbone.

    Args:
        value: what was given as one.

    Raises:
        ConfigError: it is none; says what to write.
    """
    if isinstance(value, Backbone):
        return
    if isinstance(value, (str, Path, PreTrainedModel)):
        remedy = "write load_backbone(model)"
    elif isinstance(getattr(value, "backbone", None), Backbone):
        remedy = "call its own methods, such as model.answer(image, question), or give its backbone"
    else:
        remedy = "load_backbone gives one"
    raise ConfigError(f"the backbone must be a Backbone, not {type(value).__name__}: {remedy}")
