"""One backbone in many threads: every result is, bit for bit, what it is in a single one."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import sdrpn_core.plugins.manager
from sdrpn_core import (
    RPNConfig,
    RPNProposer,
    TrainingSettings,
    answer_stream,
    get_plugins,
    label,
    train,
)
from sdrpn_core.backbone.adapter import Backbone
from tests.environments import ROOT
from tests.faults.calls import (
    BRANCH,
    N_NEW,
    N_TRUNK,
    POLICY,
    QUESTIONS,
    Call,
    Outcome,
    make_calls,
    make_rpn,
    run,
    traces,
)
from tests.stage_data import RECIPE, records
from tests.tiny import tiny_llava
from tests.tiny_deepseek_vl import tiny_deepseek_vl
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

N_THREADS = (2, 4, 8)
N_LONG = 1000
N_FAMILY = 250


@dataclass(frozen=True)
class Subject:
    """A backbone, what is done with it, and what comes of each call when it is alone."""

    backbone: Backbone
    calls: Mapping[str, Call]
    expected: Mapping[str, object]

    @classmethod
    def of(cls, backbone: Backbone) -> Subject:
        calls = make_calls(backbone, make_rpn(backbone))
        return cls(backbone, calls, {name: call() for name, call in calls.items()})

    def run(self, n_calls: int, n_threads: int, seed: int = 0) -> Outcome:
        """Make calls in an order of their own, all kinds about equally often."""
        names = [name for _ in range(n_calls // len(self.calls) + 1) for name in self.calls]
        random.Random(seed).shuffle(names)
        return run(self.calls, self.expected, names[:n_calls], n_threads)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.of(tiny_llava(grid=7))


def test_alone_the_calls_give_what_the_stock_model_gives(subject: Subject) -> None:
    """What threads are compared with is right itself."""
    eager = tiny_llava(grid=7, attn_implementation="eager")
    outcomes = set()
    for index, question in enumerate(QUESTIONS[:3]):
        (prompt,) = eager.encode([question])
        embeds = eager.embed(prompt)[None]
        ids = eager.model.generate(inputs_embeds=embeds, max_new_tokens=N_NEW, do_sample=False)
        plain = subject.expected[f"answer without RPN:{index}"]
        assert plain[0] == tuple(ids[0].tolist())
        assert subject.expected[f"stock generate:{index}"] == ids.tolist()
        with torch.no_grad():
            attentions = eager.decoder(inputs_embeds=embeds, output_attentions=True).attentions
        every, two = subject.expected[f"AttentionTap:{index}"]
        for found, rows in ((every, attentions[1]), (two, attentions[4][:, [0, 3]])):
            torch.testing.assert_close(
                torch.frombuffer(bytearray(found), dtype=torch.float32).view(rows.shape),
                rows,
                rtol=1e-4,
                atol=1e-5,
            )
        states = subject.expected[f"stock hidden states:{index}"]
        assert subject.expected[f"FeatureTap:{index}"] == states[index + 1]
    for index in range(len(QUESTIONS)):
        outcomes.add(subject.expected[f"answer:{index}"][3])
    assert len(outcomes) > 1, "with and without crops, or half of the code would not run"
    assert subject.expected["failure:"] == ["broken", "InputError"]


@pytest.mark.parametrize("n_threads", N_THREADS)
def test_results_are_those_of_a_single_thread(subject: Subject, n_threads: int) -> None:
    before = traces(subject.backbone)
    outcome = subject.run(len(subject.calls), n_threads, seed=n_threads)
    assert not outcome.differences, outcome
    assert traces(subject.backbone) == before


@pytest.mark.faults
@pytest.mark.parametrize("n_threads", N_THREADS)
def test_a_thousand_results_are_those_of_a_single_thread(
    subject: Subject, n_threads: int, record_property: Callable[[str, object], None]
) -> None:
    before = traces(subject.backbone)
    outcome = subject.run(N_LONG, n_threads)
    record_property("threads", f"{n_threads} threads: {outcome}")
    print(f"{n_threads} threads: {outcome}")
    assert not outcome.differences, outcome
    assert traces(subject.backbone) == before


@pytest.mark.faults
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [tiny_qwen2_5_vl, tiny_deepseek_vl])
def test_families_in_threads(family: Callable[..., Backbone], attn_implementation: str) -> None:
    subject = Subject.of(family(attn_implementation=attn_implementation))
    before = traces(subject.backbone)
    outcome = subject.run(N_FAMILY, 4)
    print(f"{family.__name__}, {attn_implementation}: {outcome}")
    assert not outcome.differences, outcome
    assert traces(subject.backbone) == before


def test_a_server_may_draw_a_stream_from_any_thread(subject: Subject) -> None:
    """Servers take each item of a generator in whichever worker is free."""
    expected = subject.expected["answer_stream:RPN"]
    proposer = RPNProposer(make_rpn(subject.backbone), POLICY)

    def stream() -> list[object]:
        answers = answer_stream(
            subject.backbone, QUESTIONS[:5], proposer, batch_size=3, max_new_tokens=N_NEW
        )
        found = []
        while True:
            with ThreadPoolExecutor(1) as worker:
                item = worker.submit(next, answers, None).result()
            if item is None:
                return found
            found.append((item[0], item[1].ids, item[1].boxes))

    with ThreadPoolExecutor(2) as pool:
        assert [one.result() for one in [pool.submit(stream) for _ in range(2)]] == [expected] * 2


def test_tasks_of_an_event_loop(subject: Subject) -> None:
    names = [f"{kind}:{index}" for index in range(3) for kind in ("answer", "AttentionTap")]

    async def serve() -> list[object]:
        return await asyncio.gather(
            *(asyncio.to_thread(subject.calls[name]) for name in [*names, "failure:"])
        )

    assert asyncio.run(serve()) == [subject.expected[name] for name in [*names, "failure:"]]


def test_an_error_in_one_thread_stays_there(subject: Subject) -> None:
    """Each of the others is in the middle of its pass when one fails."""
    before = traces(subject.backbone)
    failing = [subject.calls["failure:"]] * 12
    others = [f"{kind}:{index}" for index in range(3) for kind in ("answer", "predict_roi")]
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(call) for call in failing]
        rest = {name: pool.submit(subject.calls[name]) for name in others}
        assert [one.result() for one in found] == [subject.expected["failure:"]] * len(found)
        assert {name: one.result() for name, one in rest.items()} == {
            name: subject.expected[name] for name in others
        }
    assert traces(subject.backbone) == before


@pytest.mark.parametrize("cached", [True, False], ids=["cached features", "live features"])
def test_training_in_one_thread_while_others_answer(
    subject: Subject, tmp_path: Path, *, cached: bool
) -> None:
    """What the training runs of the decoder, and its gradients, are its thread's alone."""
    backbone = subject.backbone
    label(backbone, records(4), tmp_path / "labels", recipe=RECIPE, progress=False)

    def weights(name: str) -> dict[str, bytes]:
        settings = TrainingSettings(learning_rate=1e-3, epochs=2, global_batch_size=2)
        result = train(
            backbone,
            tmp_path / "labels",
            tmp_path / name,
            settings,
            RPNConfig(branch=BRANCH, n_layers=N_TRUNK),
            feature_cache=tmp_path / f"features-{name}" if cached else None,
            progress=False,
        )
        state = result.rpn.state_dict()
        return {name: tensor.cpu().numpy().tobytes() for name, tensor in state.items()}

    expected = weights("alone")
    training = ThreadPoolExecutor(1)
    trained = training.submit(weights, "beside others")
    while not trained.done():
        outcome = subject.run(12, 2)
        assert not outcome.differences, outcome
    assert trained.result() == expected
    training.shutdown()


def test_plugins_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdrpn_core.plugins.manager, "_plugins", None)
    ready = threading.Barrier(8)

    def first_use() -> tuple[object, object]:
        ready.wait()
        plugins = get_plugins()
        return plugins, plugins.rpn_heads.get("qk")

    with ThreadPoolExecutor(8) as pool:
        found = [one.result() for one in [pool.submit(first_use) for _ in range(8)]]
    assert len({id(plugins) for plugins, _ in found}) == 1
    assert len({id(head) for _, head in found}) == 1
    assert not get_plugins().failures


@pytest.mark.faults
@pytest.mark.parametrize("attempt", range(3))
def test_everything_for_the_first_time_at_once(attempt: int) -> None:
    """Imports on first use, plugins, the registries, tokenizer and the first hooks."""
    script = """
        import os, sys, threading
        os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
        from concurrent.futures import ThreadPoolExecutor
        import sdrpn_core
        sys.setswitchinterval(1e-5)
        ready = threading.Barrier(8)

        def first(index):
            ready.wait()
            from sdrpn_glyphs import backbone_dir, rpn_dir
            backbone = sdrpn_core.load_backbone(backbone_dir("llava"), device="cpu")
            rpn = sdrpn_core.RPN.from_pretrained(rpn_dir("llava"), backbone=backbone)
            record = sdrpn_core.read_records("glyphs/small", n=1)[0]
            image, text = record.images[0], record.question
            found = sdrpn_core.answer(backbone, image, text, rpn=rpn, max_new_tokens=3)
            return found.ids, found.boxes

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(first, range(8)))
        assert all(one == found[0] for one in found), found
        print(found[0])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
