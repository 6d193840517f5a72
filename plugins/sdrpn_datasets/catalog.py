"""The data sets: a new one is one more entry.

Ids, columns and prompts are those of lmms-eval's tasks (github.com/EvolvingLMMs-Lab/lmms-eval),
with which the published numbers were made.
"""

from __future__ import annotations

from collections.abc import Mapping

from sdrpn_datasets.hub_dataset import HubDataset
from sdrpn_datasets.prompts import InlineOptions, ListedOptions, Suffix

__all__ = ["CATALOG"]

_SHORT = "\nAnswer the question using a single word or phrase."
_HR_BENCH = ListedOptions("Answer the option letter directly.")

CATALOG: Mapping[str, HubDataset] = {
    "textvqa": HubDataset(
        "lmms-lab/textvqa",
        "validation",
        help="TextVQA, validation: text in photographs, ten answers each",
        columns={"id": "question_id"},
        prompt=Suffix(_SHORT, capitalize=True),
        metric="vqa_accuracy",
    ),
    "docvqa": HubDataset(
        "lmms-lab/DocVQA",
        "validation",
        config="DocVQA",
        help="DocVQA, validation: scanned documents",
        columns={"id": "questionId"},
        prompt=Suffix(_SHORT),
        metric="anls",
        max_new_tokens=128,
    ),
    "infovqa": HubDataset(
        "lmms-lab/DocVQA",
        "validation",
        config="InfographicVQA",
        help="InfographicVQA, validation: infographics",
        columns={"id": "questionId"},
        prompt=Suffix(_SHORT),
        metric="anls",
    ),
    "chartqa": HubDataset(
        "lmms-lab/ChartQA",
        "test",
        help="ChartQA, test: charts, numbers within 5%",
        columns={"category": "type"},
        prompt=Suffix(_SHORT),
        metric="relaxed_accuracy",
        max_new_tokens=16,
    ),
    "ocrbench": HubDataset(
        "echo840/OCRBench",
        "test",
        help="OCRBench: recognition, documents, formulas",
        columns={"category": "question_type"},
        prompt=Suffix(""),
        metric="containment",
        max_new_tokens=128,
    ),
    "vstar": HubDataset(
        "lmms-lab/vstar-bench",
        "test",
        help="V* Bench: small objects in large photographs",
        columns={"question": "text", "answer": "label"},
        prompt=InlineOptions("\nAnswer with the option's letter from the given choices directly."),
        metric="multiple_choice",
        max_new_tokens=16,
    ),
    "hrbench4k": HubDataset(
        "DreamMr/HR-Bench",
        "hrbench_4k",
        config="hrbench_version_split",
        help="HR-Bench 4K: details in images of 4K resolution",
        columns={"options": "A,B,C,D"},
        prompt=_HR_BENCH,
        metric="multiple_choice",
    ),
    "hrbench8k": HubDataset(
        "DreamMr/HR-Bench",
        "hrbench_8k",
        config="hrbench_version_split",
        help="HR-Bench 8K: details in images of 8K resolution",
        columns={"options": "A,B,C,D"},
        prompt=_HR_BENCH,
        metric="multiple_choice",
    ),
    "pope": HubDataset(
        "lmms-lab/POPE",
        "test",
        config="default",
        help="POPE: is the object there, yes or no",
        columns={"id": ""},  # they repeat from category to category
        prompt=Suffix(_SHORT),
        metric="yes_no",
        total="f1",
        max_new_tokens=128,
    ),
}
"""By name."""
