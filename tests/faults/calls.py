"""What threads do with one backbone at the same time, and how the results are compared.

Every call gives something that compares with ``==``, bit for bit: token ids, boxes, the bytes of
maps, of attention rows and of label shards.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdrpn_core import (
    RPN,
    AttentionTap,
    FeatureTap,
    PrefixStore,
    Question,
    RPNConfig,
    RPNProposer,
    answer,
    answer_stream,
    find_heads,
    label,
    predict_roi,
)
from sdrpn_core.answering.token_layers import TokenLayerCounter
from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.data.record import Record
from sdrpn_core.rpn.prediction import prompt_features
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.training.cached_batches import CachedFeatureBatcher
from sdrpn_core.training.samples import CachedSample
from tests.stage_data import RECIPE, files, records
from tests.tiny import tiny_image

BRANCH, N_TRUNK = 2, 2
#: Room for one or two prefixes: threads drop each other's.
STORE_BYTES = 800_000
N_NEW = 4
TEXTS = ("what color is the square ?", "how many ?", "read the small sign on the left of the dot")
#: Proposes regions in some of the images, as the maps of random weights come.
POLICY = BboxPolicy(threshold=0.6, max_area_fraction=1.0, max_crops=4, blur=False)
IMAGES = tuple(tiny_image(seed, size) for seed, size in enumerate(((90, 60), (60, 90), (200, 40))))
QUESTIONS = tuple(
    Question(text, (image,)) for text in TEXTS for image in IMAGES
)  # 9: lengths and images differ

Call = Callable[[], object]


def make_rpn(backbone: Backbone) -> RPN:
    """An RPN with random weights that proposes regions for some of the questions."""
    return RPN.from_backbone(backbone, RPNConfig(branch=BRANCH, n_layers=N_TRUNK))


def make_calls(backbone: Backbone, rpn: RPN) -> dict[str, Call]:
    """Calls by name; the part before the colon is the entry point that they go through."""
    proposer = RPNProposer(rpn, POLICY)
    store = PrefixStore(max_bytes=STORE_BYTES)
    calls: dict[str, Call] = {}
    for index, question in enumerate(QUESTIONS):
        calls[f"answer:{index}"] = _answer(backbone, question, rpn)
        calls[f"predict_roi:{index}"] = _roi(backbone, question, rpn)
    for index, question in enumerate(QUESTIONS[:3]):
        calls[f"answer without RPN:{index}"] = _answer(backbone, question, None)
        calls[f"answer with store:{index}"] = _answer(backbone, question, rpn, store)
        calls[f"AttentionTap:{index}"] = _attention(backbone, question)
        calls[f"AttentionTap in generate:{index}"] = _generated_attention(backbone, question)
        calls[f"FeatureTap:{index}"] = _features(backbone, question, index)
        calls[f"TokenLayerCounter:{index}"] = _counted(backbone, question, rpn)
        calls[f"stock generate:{index}"] = _stock_generate(backbone, question)
        calls[f"stock hidden states:{index}"] = _stock_states(backbone, question)
    calls["answer_stream:RPN"] = _stream(backbone, proposer)
    calls["answer_stream:plain"] = _stream(backbone, None)
    calls["label:own"] = _label(backbone, answered=False)
    calls["label:given"] = _label(backbone, answered=True)
    calls["find_heads:"] = _heads(backbone)
    calls["RPN.from_backbone:"] = _copied(backbone)
    calls["cached features:"] = _cached(backbone)
    calls["failure:"] = _failure(backbone, rpn)
    return calls


def _answer(
    backbone: Backbone, question: Question, rpn: RPN | None, store: PrefixStore | None = None
) -> Call:
    def call() -> object:
        found = answer(
            backbone,
            question.images[0],
            question.text,
            rpn=rpn,
            policy=None if rpn is None else POLICY,
            store=store,
            max_new_tokens=N_NEW,
        )
        return found.ids, found.text, found.boxes, found.outcome, found.n_visual_tokens

    return call


def _roi(backbone: Backbone, question: Question, rpn: RPN) -> Call:
    def call() -> object:
        (roi,) = predict_roi(backbone, question.images[0], question.text, rpn)
        return roi.scores.tobytes()

    return call


def _stream(backbone: Backbone, proposer: RPNProposer | None) -> Call:
    def call() -> object:
        found = answer_stream(backbone, QUESTIONS[:5], proposer, batch_size=3, max_new_tokens=N_NEW)
        return [(index, one.ids, one.boxes) for index, one in found]

    return call


def _inputs(backbone: Backbone, question: Question) -> dict[str, torch.Tensor]:
    block = prompt_block(backbone, backbone.encode([question]))
    return {
        "inputs_embeds": block.embeds,
        "attention_mask": block.mask,
        "position_ids": block.positions,
    }


def _stock_generate(backbone: Backbone, question: Question) -> Call:
    @torch.no_grad()
    def call() -> object:
        inputs = _inputs(backbone, question)
        return backbone.model.generate(**inputs, max_new_tokens=N_NEW, do_sample=False).tolist()

    return call


def _stock_states(backbone: Backbone, question: Question) -> Call:
    @torch.no_grad()
    def call() -> object:
        found = backbone.decoder(**_inputs(backbone, question), output_hidden_states=True)
        return [states.numpy().tobytes() for states in found.hidden_states]

    return call


def _attention(backbone: Backbone, question: Question) -> Call:
    @torch.no_grad()
    def call() -> object:
        with AttentionTap(backbone.decoder, {1: None, 4: (0, 3)}) as tap:
            backbone.decoder(**_inputs(backbone, question))
        return [tap.weights(layer).numpy().tobytes() for layer in (1, 4)]

    return call


def _generated_attention(backbone: Backbone, question: Question) -> Call:
    @torch.no_grad()
    def call() -> object:
        inputs = _inputs(backbone, question)
        length = inputs["inputs_embeds"].shape[1]
        with AttentionTap(backbone.decoder, {3: None}, queries=slice(length, None)) as tap:
            ids = backbone.model.generate(**inputs, max_new_tokens=N_NEW, min_new_tokens=N_NEW)
        return ids.tolist(), [rows.weights.numpy().tobytes() for rows in tap.rows[3]]

    return call


def _features(backbone: Backbone, question: Question, layer: int) -> Call:
    def call() -> object:
        with torch.no_grad(), FeatureTap(backbone.decoder, layer + 1) as tap:
            return tap.run(**_inputs(backbone, question)).hidden.numpy().tobytes()

    return call


def _counted(backbone: Backbone, question: Question, rpn: RPN) -> Call:
    call = _answer(backbone, question, rpn)

    def counted() -> object:
        with TokenLayerCounter(backbone, rpn) as counter:
            found = call()
        return found, counter.token_layers, counter.rpn_token_layers

    return counted


def _label(backbone: Backbone, *, answered: bool) -> Call:
    def call() -> object:
        with tempfile.TemporaryDirectory() as folder:
            label(
                backbone,
                records(4, answered=answered),
                folder,
                recipe=RECIPE,
                batch_size=2,
                shard_size=2,
                max_new_tokens=N_NEW,
                progress=False,
            )
            return files(Path(folder))

    return call


def _heads(backbone: Backbone) -> Call:
    boxed = [
        Record(
            f"r{i}", tiny_image(i, (56, 56)), TEXTS[1], response="red dot", boxes=((0, 0, 28, 14),)
        )
        for i in range(6)
    ]

    def call() -> object:
        return find_heads(backbone, boxed, max_new_tokens=N_NEW, progress=False).to_dict()

    return call


def _copied(backbone: Backbone) -> Call:
    """Copies layers that others are tapping."""

    def call() -> object:
        rpn = make_rpn(backbone)
        return {name: tensor.numpy().tobytes() for name, tensor in rpn.state_dict().items()}

    return call


def _cached(backbone: Backbone) -> Call:
    """What training on cached features runs of the decoder."""
    prompts = backbone.encode(QUESTIONS[:2])
    features, places = prompt_features(backbone, prompts, BRANCH)
    block = prompt_block(backbone, prompts)
    samples = [
        CachedSample(
            id=str(row),
            hidden=features.hidden[row, int(block.starts[row]) :],
            positions=block.positions[..., row, int(block.starts[row]) :],
            start=place.start - int(block.starts[row]),
            grid=place.grid,
            labels=np.zeros(place.grid, dtype=np.int8),
        )
        for row, place in enumerate(places)
    ]
    batcher = CachedFeatureBatcher(backbone, BRANCH)

    def call() -> object:
        batch = batcher(samples)
        cos, sin = batch.features.layer_kwargs["position_embeddings"]
        return [tensor.numpy().tobytes() for tensor in (batch.features.hidden, cos, sin)]

    return call


class Broken(Exception):
    """What a caller's own code raises in the middle of a pass."""


def _failure(backbone: Backbone, rpn: RPN) -> Call:
    """Fails in each way in which a call can end early, with every tap open."""

    def consume(layer: int, rows: object) -> None:
        raise Broken

    def call() -> object:
        seen = []
        try:
            with (
                torch.no_grad(),
                FeatureTap(backbone.decoder, 1, stop=False),
                TokenLayerCounter(backbone, rpn),
                AttentionTap(backbone.decoder, {2: None}, consume=consume),
            ):
                backbone.decoder(**_inputs(backbone, QUESTIONS[0]))
        except Broken:
            seen.append("broken")
        try:
            predict_roi(backbone, IMAGES[0], "what ? " * 1000, rpn)
        except Exception as error:  # noqa: BLE001  # compared by name
            seen.append(type(error).__name__)
        return seen

    return call


@dataclass
class Outcome:
    """What a run of many calls came to.

    Attributes:
        n_calls: how many ran.
        differences: names of the calls whose results differ, and what was raised.
        seconds: wall time.
    """

    n_calls: int
    differences: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        kinds = Counter(f"{name.partition(':')[0]}: {what}" for name, what in self.differences)
        lines = [f"{len(self.differences)} of {self.n_calls} differ, {self.seconds:.1f} s"]
        return "\n".join([*lines, *(f"  {n} {kind}" for kind, n in kinds.most_common())])


def run(
    calls: Mapping[str, Call], expected: Mapping[str, object], names: Sequence[str], n_threads: int
) -> Outcome:
    """Make calls in several threads and compare each result with what it is alone.

    Args:
        calls: by name.
        expected: results of the same calls, made one after the other.
        names: which calls, in the order in which threads take them up.
        n_threads: how many threads.
    """
    outcome = Outcome(len(names))
    ready = threading.Barrier(n_threads)

    def one(name: str) -> None:
        try:
            found = calls[name]()
        except Exception as error:  # noqa: BLE001  # whatever it is, alone it did not happen
            outcome.differences.append((name, type(error).__name__))
        else:
            if found != expected[name]:
                outcome.differences.append((name, "differs"))

    with switching_often(), ThreadPoolExecutor(n_threads, initializer=ready.wait) as pool:
        begun = time.perf_counter()
        # The barrier holds each thread until all are there.
        for future in [pool.submit(one, name) for name in names]:
            future.result()
        outcome.seconds = time.perf_counter() - begun
    return outcome


@contextmanager
def switching_often() -> Iterator[None]:
    """Let threads take turns far more often than the usual 5 ms, inside nearly every call."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def traces(backbone: Backbone) -> dict[str, Any]:
    """What taps could leave behind on a model."""
    modules = list(backbone.model.modules())
    return {
        "hooks": [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in modules],
        "with kwargs": [
            len(m._forward_pre_hooks_with_kwargs) + len(m._forward_hooks_with_kwargs)
            for m in modules
        ],
        "implementations": [
            config._attn_implementation
            for config in (backbone.model.config, backbone.text_config, backbone.decoder.config)
        ],
        "layers": [id(layer) for layer in backbone.layers],
        "grad": torch.is_grad_enabled(),
    }
