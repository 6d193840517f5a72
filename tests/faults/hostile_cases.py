"""Hostile invocations of ``sdrpn``: odd options, and a workspace with an edited file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tests.faults.hostile_edits import (
    NESTED,
    ODD,
    RAW,
    Edit,
    cast,
    change,
    change_line,
    cut,
    fill,
    rename,
    replace_line,
    tensors,
    write,
)

QUESTION = "how many dots are in the red square ?"

# The workspace: one of everything that a command reads.

ROI = ("roi", "{w}/image.png", QUESTION, "-m", "{w}/model", "--rpn", "{w}/rpn", "--json")
ASK = ("ask", "{w}/image.png", QUESTION, "-m", "{w}/model", "--rpn", "{w}/rpn", "--json")
ASK += ("--max-new-tokens", "3")
LABEL = ("label", "{w}/data/questions.jsonl", "-m", "{w}/model", "-o", "{w}/labels", "--json")
LABEL += ("--shard-size", "3", "--max-new-tokens", "3", "--batch-size", "3")
TRAIN = ("train", "{w}/labels", "-m", "{w}/model", "-o", "{w}/run", "--steps", "2", "--json")
TRAIN += ("--global-batch-size", "4", "--batch-size", "4", "--setting", "checkpoint_every=1")
TRAIN += ("--setting", "log_every=1")
BENCH = ("bench", "-m", "{w}/model={w}/rpn", "-d", "{w}/data/questions.jsonl", "-o", "{w}/bench")
BENCH += ("--methods", "baseline,sdrpn", "--n", "2", "--max-new-tokens", "3", "--json")
HEADS = ("heads", "{w}/data/questions.jsonl", "-m", "{w}/model", "-o", "{w}/recipe.json", "--json")
HEADS += ("--n", "6", "--max-new-tokens", "3")
IMPORT = ("import-rpn", "{w}/published", "-m", "{w}/model", "-o", "{w}/new")
GLYPHS = ("glyphs", "{w}/new", "--n", "2")

OLD = tuple(word.replace("/rpn", "/old") for word in ROI)
RELABEL = tuple(word.replace("/labels", "/new") for word in LABEL)
RETRAIN = tuple(word.replace("/run", "/new") for word in TRAIN)
REBENCH = tuple(word.replace("/bench", "/new") for word in BENCH)
REFIND = tuple(word.replace("/recipe.json", "/new.json") for word in HEADS)


@dataclass(frozen=True)
class Case:
    """One invocation.

    Attributes:
        name: unique; its first word is its group.
        words: after the program's name; ``{w}`` is the workspace.
        allows: beside a refusal, which is always right: nothing, the output of the same command
            in the workspace as it was, or any success (the value has a meaning).
        edit: changes a copy of the workspace first.
    """

    name: str
    words: tuple[str, ...]
    allows: Literal["nothing", "same", "success"] = "nothing"
    edit: Edit | None = None


def all_cases() -> list[Case]:
    """Every invocation, by group."""
    groups = (
        policy_options, shared_options, sizes, words, rpn_config, rpn_backbone, rpn_weights,
        recipes, manifests, json_files, log_lines, item_lines, record_lines, checkpoints,
    )  # fmt: skip
    cases = [case for group in groups for case in group()]
    names = Counter(case.name for case in cases)
    assert max(names.values()) == 1, names.most_common(3)
    return cases


POLICY_FIELDS = {
    "bbox": (
        "threshold", "relative", "min_area", "max_area_fraction", "blur", "keep_single",
        "corner_sink_above", "max_crops", "max_ratio", "margin",
    ),
    "mask": ("threshold", "min_regions", "whole_grid", "max_area_fraction"),
}  # fmt: skip


def policy_options() -> Iterator[Case]:
    texts = ("abc", "null", "[]", "nan", "NaN", "{}", "1e999", "-1", "1" + 30 * "0", '""', NESTED)
    for policy, names in POLICY_FIELDS.items():
        for name in names:
            for text in texts:
                words = (*ROI, "--policy", policy, "--policy-option", f"{name}={text}")
                refused = text in ("abc", "[]", "nan", "NaN", "{}", '""', NESTED)
                allows = "nothing" if refused else "success"
                yield Case(f"policy {policy} {name}={text[:8]}", words, allows)
    for text in ("abc", "nan", "inf", "-1", "2", "", "1e999"):
        yield Case(f"policy --threshold {text}", (*ROI, "--threshold", text))


def shared_options() -> Iterator[Case]:
    commands = {
        "roi": ROI, "ask": ASK, "label": RELABEL, "train": RETRAIN, "bench": REBENCH,
        "heads": REFIND,
    }  # fmt: skip
    options = {
        "--device": ("nope", "cuda", "cuda:99", "meta", "mps", "xpu", "cpu:7", "cuda:-1", "", "1"),
        "--dtype": ("float31", "int8", "bool", "complex64", "Tensor", "load", "float8_e4m3fn", ""),
        "--attn-implementation": ("nope", "flash_attention_2", "", "paged|sdpa", "kernels/x"),
    }
    for command, words in commands.items():
        for option, texts in options.items():
            for text in texts:
                allows = "success" if text in ("cpu:7", "paged|sdpa") else "nothing"
                yield Case(f"option {command} {option} {text!r}", (*words, option, text), allows)


def sizes() -> Iterator[Case]:
    options = {
        "ask": (ASK, ("--max-new-tokens",)),
        "label": (RELABEL, ("--n", "--batch-size", "--shard-size", "--max-new-tokens")),
        "train": (RETRAIN, ("--steps", "--batch-size", "--global-batch-size", "--layers")),
        "bench": (REBENCH, ("--n", "--batch-size", "--max-new-tokens")),
        "heads": (REFIND, ("--n", "--batch-size", "--max-heads", "--max-new-tokens")),
        "glyphs": (GLYPHS, ("--n",)),
    }
    for command, (given, names) in options.items():
        for name in names:
            for text in ("0", "-1", "abc", "1.5", "nan", ""):
                yield Case(f"size {command} {name} {text!r}", (*given, name, text))
    for command, given in {"label": RELABEL, "train": RETRAIN, "glyphs": GLYPHS}.items():
        for text in ("-1", str(2**63), str(10**30), "x"):
            allows = "nothing" if text == "x" else "success"
            yield Case(f"size {command} --seed {text}", (*given, "--seed", text), allows)
    for text in ("0", "-1", "nan", "inf", "abc"):
        yield Case(f"size train --lr {text}", (*RETRAIN, "--lr", text))
    settings = (
        "betas", "weight_decay", "optimizer", "warmup_fraction", "epochs", "max_grad_norm",
        "labeler", "mixed_precision", "num_workers", "keep_checkpoints", "log_every", "seed",
        "gradient_checkpointing",
    )  # fmt: skip
    for name in settings:
        for text in ("abc", "[]", "{}", "NaN", "-1.5"):
            if (name, text) not in {("labeler", "abc")}:
                words = (*RETRAIN, "--setting", f"{name}={text}")
                yield Case(f"setting {name}={text}", words)
    for name in ("rope", "multi_head", "source"):
        for text in ("abc", "[]", "null", "5"):
            words = (*RETRAIN, "--head-option", f"{name}={text}")
            yield Case(f"setting --head-option {name}={text}", words)
    for text in ("workers=x", "x=1", "workers", "=", "workers=null"):
        yield Case(f"setting --engine-option {text}", (*RELABEL, "--engine-option", text))
    for text in ("sdrpn.x=1", "x.y=1", "x=1", "sdrpn=1", "random.seed=[]", "attention.policy=5"):
        yield Case(f"setting --method-option {text}", (*REBENCH, "--method-option", text))


def words() -> Iterator[Case]:
    texts = {
        "empty": "", "space": "  ", "surrogate": "\udcd5\udce2", "nul": "a\0b", "long": "x" * 5000,
        "newline": "a\nb", "escape": "\x1b[2J", "folder": "{w}", "null device": os.devnull,
        "url": "https://localhost:1/x", "up": "../../..", "braces": "{}", "percent": "%s%n",
    }  # fmt: skip
    places = {
        "ask --model": lambda text: ("ask", "{w}/image.png", QUESTION, "-m", text),
        "ask IMAGE": lambda text: ("ask", text, QUESTION, "-m", "{w}/model"),
        "ask QUESTION": lambda text: ("ask", "{w}/image.png", text, "-m", "{w}/model"),
        "ask --rpn": lambda text: (*ASK, "--rpn", text),
        "ask --policy": lambda text: (*ASK, "--policy", text),
        "ask --save": lambda text: (*ASK, "--save", text),
        "roi --npy": lambda text: (*ROI, "--npy", text),
        "label DATA": lambda text: (*RELABEL[:1], text, *RELABEL[2:]),
        "label --recipe": lambda text: (*RELABEL, "--recipe", text),
        "label --engine": lambda text: (*RELABEL, "--engine", text),
        "train LABELS": lambda text: (*RETRAIN[:1], text, *RETRAIN[2:]),
        "train --head": lambda text: (*RETRAIN, "--head", text),
        "bench --methods": lambda text: (*REBENCH, "--methods", text),
        "bench --models": lambda text: (*REBENCH, "-m", text),
        "import-rpn": lambda text: (*IMPORT[:1], text, *IMPORT[2:]),
    }
    meaningful = {
        ("ask QUESTION", name)
        for name in (
            "long",
            "nul",
            "folder",
            "null device",
            "url",
            "up",
            "braces",
            "percent",
            "newline",
            "escape",
        )
    } | {
        ("bench --methods", "empty"),
        ("bench --methods", "space"),
        ("label DATA", "folder"),  # whatever data lies there
        ("label DATA", "up"),
    }
    for place, make in places.items():
        for name, text in texts.items():
            allows = "success" if (place, name) in meaningful else "nothing"
            yield Case(f"word {place} {name}", make(text), allows)
    for command in ("roi", "ask", "label", "train", "bench", "heads", "import-rpn", "plugins"):
        yield Case(f"word {command} unknown option", (command, "--no-such-option"))
        if command != "plugins":
            yield Case(f"word {command} alone", (command,))
    for text in ("", "\udcff", "-", "plugin", "roi\0"):
        yield Case(f"word command {text!r}", (text,))


def rpn_config() -> Iterator[Case]:
    fields = (
        "branch", "n_layers", "head", "head_options", "final_norm", "loss", "policy",
        "policy_options", "recipe", "backbone", "versions", "format_version",
    )  # fmt: skip
    # What the RPN gives does not depend on them, or these values are those that are there.
    harmless = {
        ("recipe", "null"),
        ("recipe", "object"),
        ("versions", "object"),
        ("final_norm", "true"),
    }
    # The defaults.
    meaningful = {("policy_options", "object"), ("head_options", "object")}
    for field in fields:
        for name, value in ODD.items():
            allows = "same" if (field, name) in harmless else "nothing"
            allows = "success" if (field, name) in meaningful else allows
            edit = change("old/config.json", field, to=value)
            yield Case(f"rpn {field} {name}", OLD, allows, edit)
    for loss in ("bce", "focal"):
        yield Case(f"rpn loss {loss}", ROI, edit=change("rpn/config.json", "loss", to=loss))
    for field, value in {"policy": "mask", "recipe": None, "final_norm": False}.items():
        edit = change("rpn/config.json", field, to=value)
        yield Case(f"rpn checked {field}", ROI, edit=edit)
    for option in ("multi_head", "rope", "source"):
        for name in ("null", "text", "list", "5", "nan"):
            edit = change("old/config.json", "head_options", option, to=ODD[name])
            yield Case(f"rpn head_options.{option} {name}", OLD, edit=edit)
    for option in ("threshold", "min_area", "blur"):
        for name in ("null", "text", "list", "nan", "nested"):
            edit = change("old/config.json", "policy_options", option, to=ODD[name])
            yield Case(f"rpn policy_options.{option} {name}", OLD, edit=edit)
    for field, value in {"branch": 3, "n_layers": 1}.items():
        edit = change("old/config.json", field, to=value)
        yield Case(f"rpn {field} {value}", OLD, edit=edit)


def rpn_backbone() -> Iterator[Case]:
    config = "old/config.json"
    facts = (
        "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "norm_weights", "attention_weights",
        "embedding_weights",
    )  # fmt: skip
    for fact in facts:
        for name in ("null", "text", "list", "-1", "nan", "object", "nested", "googol"):
            edit = change(config, "backbone", fact, to=ODD[name])
            yield Case(f"identity {fact} {name}", OLD, edit=edit)
    reduced = {"name": "llava"}, {"model_type": "llama"}, {"name": None, "revision": None}
    for values in reduced:
        edit = change(config, "backbone", to=values)
        yield Case(f"identity reduced to {' and '.join(values)}", OLD, edit=edit)


def rpn_weights() -> Iterator[Case]:
    path = "rpn/model.safetensors"
    for dtype in ("bool", "int64", "int8", "uint8", "complex64", "float8_e4m3fn"):
        yield Case(f"weights {dtype}", ROI, edit=tensors(path, cast(dtype)))
    for value in (float("nan"), float("inf")):
        yield Case(f"weights all {value}", ROI, edit=tensors(path, fill(value)))
    yield Case("weights none", ROI, edit=tensors(path, lambda found: {}))
    yield Case(
        "weights one less", ROI, edit=tensors(path, lambda found: dict([*found.items()][1:]))
    )
    yield Case(
        "weights one more",
        ROI,
        edit=tensors(path, lambda found: {**found, "more": next(iter(found.values())).clone()}),
    )
    yield Case(
        "weights flat",
        ROI,
        edit=tensors(path, lambda found: {name: t.flatten() for name, t in found.items()}),
    )
    for share in (0.0, 0.001, 0.5, 0.99):
        yield Case(f"weights cut at {share}", ROI, edit=cut(path, share))
    yield Case(
        "weights a folder", ROI, edit=rename("data", "rpn/model.safetensors.d"), allows="same"
    )
    yield Case("weights gone", ROI, edit=rename(path, "rpn/gone"))
    for name in ("empty", "binary", "zeros", "nested"):
        yield Case(f"weights {name}", ROI, edit=write(path, RAW[name]))
        yield Case(
            f"weights of the backbone {name}", ROI, edit=write("model/model.safetensors", RAW[name])
        )


def recipes() -> Iterator[Case]:
    label = (*RELABEL, "--recipe", "{w}/recipe.json")
    for field in ("format_version", "recipe", "branch", "n_layers", "backbone"):
        for name, value in ODD.items():
            yield Case(
                f"recipe {field} {name}",
                label,
                "success" if field in ("branch", "n_layers") and name == "5" else "nothing",
                change("recipe.json", field, to=value),
            )
    inner = (
        "grounding", "sink", "sink_threshold", "foreground", "background", "max_box_fraction",
        "min_peak", "box_blur", "padding_is_sink", "smoothing", "response_rows",
        "question_template", "drop_instruction",
    )  # fmt: skip
    meaningful = {
        "sink": {"object"}, "sink_threshold": {"5", "billion", "1.5", "googol"},
        "min_peak": {"5", "1.5", "billion", "googol"}, "box_blur": {"true"},
        "padding_is_sink": {"true"}, "smoothing": {"true"},
        "response_rows": {"null", "5", "billion"},
        "drop_instruction": {"text", "empty text", "surrogate"},
    }  # fmt: skip
    for field in inner:
        for name, value in ODD.items():
            allows = "success" if name in meaningful.get(field, ()) else "nothing"
            edit = change("recipe.json", "recipe", field, to=value)
            yield Case(f"recipe recipe.{field} {name}", label, allows, edit)


def manifests() -> Iterator[Case]:
    fields = ("records", "fingerprint", "shard_size", "dataset", "provenance", "format_version")
    for field in fields:
        for name, value in {**ODD, "trillion": 10**12, "2": 2}.items():
            harmless = (field == "dataset" and isinstance(value, str)) or (
                field == "format_version" and value == 2  # it is
            )
            edit = change("labels/manifest.json", field, to=value)
            yield Case(f"manifest {field} {name}", RETRAIN, "same" if harmless else "nothing", edit)
    for name, value in ODD.items():
        for keys in (("provenance", "recipe"), ("provenance", "backbone")):
            edit = change("labels/manifest.json", *keys, to=value)
            yield Case(f"manifest {'.'.join(keys)} {name}", RETRAIN, edit=edit)
    for field in ("records", "shard_size"):
        edit = change("labels/manifest.json", field, to=ODD["nan"])
        yield Case(f"manifest label {field} nan", LABEL, edit=edit)


JSON_FILES = {
    "old/config.json": OLD,
    "rpn/config.json": ROI,
    "model/config.json": ROI,
    "model/processor_config.json": ROI,
    "model/tokenizer.json": ROI,
    "model/tokenizer_config.json": ROI,
    "labels/manifest.json": RETRAIN,
    "bench/config.json": BENCH,
    "run/run.json": TRAIN,
    "recipe.json": (*RELABEL, "--recipe", "{w}/recipe.json"),
}


def json_files() -> Iterator[Case]:
    for path, command in JSON_FILES.items():
        for name, content in RAW.items():
            # transformers has defaults for a tokenizer's settings, as for much else.
            allows = "same" if path.startswith("model/") else "nothing"
            yield Case(f"json {path} {name}", command, allows, write(path, content))
    for path in ("data/questions.jsonl", "bench/items.jsonl", "run/train_log.jsonl"):
        command = {"data": RELABEL, "benc": BENCH, "run/": TRAIN}[path[:4]]
        for name, content in RAW.items():
            # A log or a list of items without a whole line is that of a run which has not begun.
            allows = "nothing" if path.startswith("data") else "success"
            edit = write(path, content)
            yield Case(f"json {path} {name}", command, allows, edit)


def log_lines() -> Iterator[Case]:
    path = "run/train_log.jsonl"
    for name, content in RAW.items():
        if name not in ("empty",):
            yield Case(f"log line {name}", TRAIN, "nothing", replace_line(path, 0, content + b"}"))
    for field in ("step", "loss"):
        for name in ("null", "text", "list", "object", "nested", "1.5", "true"):
            if (field, name) in {("loss", "null"), ("loss", "1.5")}:
                continue
            edit = change_line(path, 0, field, ODD[name])
            yield Case(f"log {field} {name}", TRAIN, edit=edit)


def item_lines() -> Iterator[Case]:
    path = "bench/items.jsonl"
    for name, content in RAW.items():
        yield Case(f"item line {name}", BENCH, edit=replace_line(path, 0, content))
    for field in ("model", "fingerprint", "index", "methods"):
        for name in ("null", "text", "list", "object", "nested", "-1", "1.5", "googol"):
            edit = change_line(path, 0, field, ODD[name])
            yield Case(f"item {field} {name}", BENCH, edit=edit)


def record_lines() -> Iterator[Case]:
    path = "data/questions.jsonl"
    for name, content in RAW.items():
        yield Case(f"record line {name}", RELABEL, "success", replace_line(path, 1, content))
    for field in ("image", "question", "answer", "boxes", "id", "options", "conversations"):
        for name, value in ODD.items():
            edit = change_line(path, 1, field, value)
            yield Case(f"record {field} {name}", RELABEL, "success", edit)
            if field in ("answer", "boxes", "image"):
                yield Case(f"record bench {field} {name}", REBENCH, "success", edit)


def checkpoints() -> Iterator[Case]:
    last = "run/checkpoints/step-00000002"
    state = f"{last}/state.json"
    more = tuple("3" if word == "2" else word for word in TRAIN)
    for name, content in RAW.items():
        yield Case(f"state {name}", more, edit=write(state, content))
    for field in ("step", "optimizer"):
        for name in ("null", "text", "list", "5", "-1", "nan", "true"):
            yield Case(f"state {field} {name}", more, edit=change(state, field, to=ODD[name]))
    yield Case("checkpoint renamed", more, edit=rename(last, "run/checkpoints/step-00000003"))
    yield Case("checkpoint from afar", more, edit=rename(last, "run/checkpoints/step-99999999"))
    for part in ("optimizer.safetensors", "rpn/model.safetensors", "rpn/config.json"):
        for name in ("empty", "binary", "zeros"):
            edit = write(f"{last}/{part}", RAW[name])
            # The configuration is that of the run.
            allows = "success" if part == "rpn/config.json" else "nothing"
            yield Case(f"checkpoint {part} {name}", more, allows, edit)
    for dtype in ("bool", "int64"):
        edit = tensors(f"{last}/rpn/model.safetensors", cast(dtype))
        yield Case(f"checkpoint weights {dtype}", more, edit=edit)
