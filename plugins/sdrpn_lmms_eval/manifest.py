"""What lmms-eval reads at start-up, for every model: it says where ours is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

MODEL_ID = "sdrpn"


def manifest() -> ModelManifest:
    """Name the model's classes, which lmms-eval imports when ``--model sdrpn`` is given."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        MODEL_ID,
        simple_class_path="sdrpn_lmms_eval.model.SdrpnSimple",
        chat_class_path="sdrpn_lmms_eval.model.SdrpnChat",
    )
