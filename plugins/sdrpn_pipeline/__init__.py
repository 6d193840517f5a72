"""A task for ``transformers.pipeline``: questions about images, with a closer look.

Importing this package registers the task ``roi-image-text-to-text``, which takes transformers with
it; so it is no plugin that ``sdrpn`` itself loads::

    import sdrpn_pipeline
    from transformers import pipeline

    ask = pipeline("roi-image-text-to-text", model="path/or/id", rpn="path/or/id")
    ask("photo.jpg", "What is written on the sign?")["generated_text"]
"""

from __future__ import annotations

from transformers import AutoModelForImageTextToText
from transformers.pipelines import PIPELINE_REGISTRY

from sdrpn_pipeline.pipeline import RoIImageTextToTextPipeline

__all__ = ["TASK", "RoIImageTextToTextPipeline"]

TASK = "roi-image-text-to-text"

PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=RoIImageTextToTextPipeline,
    pt_model=AutoModelForImageTextToText,
    type="multimodal",
)
