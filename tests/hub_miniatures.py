"""Miniatures of the registered data sets: folders in the Hub's layout, in their true schemas.

The schemas are those of the data sets' cards; ``tests/plugins/test_datasets.py`` reads the folders
as a user reads a local copy.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Features, Image, List, Value

from tests.tiny import tiny_image

TEXT = Value("string")
TEXTS = List(TEXT)


@dataclass(frozen=True)
class Miniature:
    """One configuration of a data set.

    Attributes:
        features: the columns.
        rows: two or three, by column.
        files: shards by split; ``{}`` in a name stands for the number of the shard.
        config: its name.
    """

    features: Features
    rows: Mapping[str, Sequence[Any]]
    files: Mapping[str, str]
    config: str = "default"


def png(seed: int, size: tuple[int, int] = (70, 50)) -> bytes:
    buffer = io.BytesIO()
    tiny_image(seed, size).save(buffer, "PNG")
    return buffer.getvalue()


def _images(n: int) -> list[dict[str, Any]]:
    return [{"bytes": png(i), "path": f"{i}.png"} for i in range(n)]


def _shards(folder: str, *splits: str) -> dict[str, str]:
    return {split: f"{folder}/{split}-0000{{}}-of-00001.parquet" for split in splits}


TEXTVQA = Miniature(
    Features(
        image_id=TEXT, question_id=Value("int32"), question=TEXT, question_tokens=TEXTS,
        image=Image(), image_width=Value("int32"), image_height=Value("int32"),
        flickr_original_url=TEXT, flickr_300k_url=TEXT, answers=TEXTS, image_classes=TEXTS,
        set_name=TEXT, ocr_tokens=TEXTS,
    ),
    {
        "image_id": ["a", "b"], "question_id": [34602, 34603],
        "question": ["what is the brand of this camera?", "What does the SIGN say?"],
        "question_tokens": [["what"], ["What"]], "image": _images(2), "image_width": [70, 70],
        "image_height": [50, 50], "flickr_original_url": ["https://x/a.jpg"] * 2,
        "flickr_300k_url": ["https://x/a.jpg"] * 2,
        "answers": [["nous les gosses"] + ["dakota"] * 9, ["stop"] * 10],
        "image_classes": [["Camera"], ["Sign"]], "set_name": ["val"] * 2,
        "ocr_tokens": [["DAKOTA"], ["STOP"]],
    },
    _shards("data", "train", "validation", "test"),
)  # fmt: skip
DOCVQA = Miniature(
    Features(
        questionId=TEXT, question=TEXT, question_types=TEXTS, image=Image(), docId=Value("int64"),
        ucsf_document_id=TEXT, ucsf_document_page_no=TEXT, answers=TEXTS, data_split=TEXT,
    ),
    {
        "questionId": ["49153", "24580"], "question": ["What is the date?", "Who signed?"],
        "question_types": [["handwritten", "form"], ["layout"]], "image": _images(2),
        "docId": [1, 2], "ucsf_document_id": ["x", "y"], "ucsf_document_page_no": ["1", "4"],
        "answers": [["1/8/93"], ["Paul", "paul smith"]], "data_split": ["val"] * 2,
    },
    _shards("DocVQA", "validation", "test"),
    "DocVQA",
)  # fmt: skip
INFOVQA = Miniature(
    Features(
        questionId=TEXT, question=TEXT, answers=TEXTS, answer_type=TEXTS, image=Image(),
        image_url=TEXT, **{"operation/reasoning": TEXTS}, ocr=TEXT, data_split=TEXT,
    ),
    {
        "questionId": ["98313", "98314"], "question": ["Which platform leads?", "How many?"],
        "answers": [["pinterest"], ["38%", "38"]],
        "answer_type": [["single span"], ["non-extractive"]],
        "image": _images(2), "image_url": ["https://x"] * 2, "operation/reasoning": [[], ["count"]],
        "ocr": ["{}", "{}"], "data_split": ["val"] * 2,
    },
    _shards("InfographicVQA", "validation", "test"),
    "InfographicVQA",
)  # fmt: skip
CHARTQA = Miniature(
    Features(type=TEXT, question=TEXT, answer=TEXT, image=Image()),
    {
        "type": ["human_test", "augmented_test"],
        "question": ["How many food items are shown?", "Which year?"],
        "answer": ["14", "2019"],
        "image": _images(2),
    },
    _shards("data", "test"),
)
OCRBENCH = Miniature(
    Features(dataset=TEXT, question=TEXT, question_type=TEXT, answer=TEXTS, image=Image()),
    {
        "dataset": ["IIIT5K", "HME100k"],
        "question": ["what is written in the image?", "Please write out the formula."],
        "question_type": ["Regular Text Recognition", "Doc-oriented VQA"],
        "answer": [["CENTRE"], ["x ^ 2"]],
        "image": _images(2),
    },
    _shards("data", "test"),
)  # fmt: skip
VSTAR_QUESTION = (
    "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar (grey)\n(D) leather\n"
    "Answer with the option's letter from the given choices directly."
)
VSTAR = Miniature(
    Features(image=Image(), text=TEXT, category=TEXT, label=TEXT, question_id=TEXT),
    {
        "image": _images(2),
        "text": [VSTAR_QUESTION, "Is the dog left of the cat? (A) left (B) right"],
        "category": ["direct_attributes", "relative_position"],
        "label": ["A", "B"],
        "question_id": ["0", "0"],
    },
    _shards("data", "test"),
)
HRBENCH = Miniature(
    Features(
        index=Value("int64"), question=TEXT, image=TEXT, answer=TEXT, category=TEXT, A=TEXT, B=TEXT,
        C=TEXT, D=TEXT, cycle_category=TEXT,
    ),
    {
        "index": [0, 1], "question": ["Which letter is on the sign?", "What is the number?"],
        "image": [base64.b64encode(png(i)).decode() for i in range(2)], "answer": ["A", "C"],
        "category": ["single", "cross"], "A": ["B", "7"], "B": ["A", "8"], "C": ["C", "9"],
        "D": ["D", None], "cycle_category": ["c0", "c1"],
    },
    {"hrbench_4k": "hr_bench_4k.parquet", "hrbench_8k": "hr_bench_8k.parquet"},
    "hrbench_version_split",
)  # fmt: skip
POPE_FEATURES = Features(
    id=TEXT, question_id=TEXT, question=TEXT, answer=TEXT, image_source=TEXT, image=Image(),
    category=TEXT,
)  # fmt: skip
POPE_ROWS = {
    "id": ["0", "1", "0"],
    "question_id": ["1", "2", "1"],
    "question": ["Is there a snowboard in the image?", "Is there a dog?", "Is there a car?"],
    "answer": ["yes", "no", "no"],
    "image_source": ["COCO_val2014_000000310196"] * 3,
    "image": _images(3),
    "category": ["adversarial", "adversarial", "popular"],
}  # fmt: skip

MINIATURES: Mapping[str, tuple[Miniature, ...]] = {
    "textvqa": (TEXTVQA,),
    "docvqa": (DOCVQA, INFOVQA),
    "infovqa": (DOCVQA, INFOVQA),
    "chartqa": (CHARTQA,),
    "ocrbench": (OCRBENCH,),
    "vstar": (VSTAR,),
    "hrbench4k": (HRBENCH,),
    "hrbench8k": (HRBENCH,),
    "pope": (
        Miniature(POPE_FEATURES, POPE_ROWS, _shards("data", "test")),
        Miniature(POPE_FEATURES, POPE_ROWS, _shards("Full", "test"), "Full"),
    ),
}
"""The configurations of each registered data set's repository."""


def write_miniature(
    folder: Path, name: str, change: Callable[[str, dict[str, Any]], None] | None = None
) -> Path:
    """Write a repository as ``hf download`` leaves it.

    Args:
        folder: where; made if missing.
        name: of the registered data set.
        change: may edit the rows of a split, given its name and the rows by column.
    """
    card = ["---", "configs:"]
    for one in MINIATURES[name]:
        card += [f"- config_name: {one.config}", "  data_files:"]
        for split, pattern in one.files.items():
            rows = {column: list(values) for column, values in one.rows.items()}
            if change is not None:
                change(split, rows)
            path = folder / pattern.format(0)
            path.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_dict(rows, features=one.features).to_parquet(path)
            files = pattern if "{}" not in pattern else pattern.partition("0000{}")[0] + "*"
            card += [f"  - split: {split}", f"    path: {files}"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder
