"""lmms-eval runs the embedded LLaVA: every form and batch size as ``sdrpn bench``, item by item."""

from __future__ import annotations

import json

import pytest

import sdrpn_lmms_eval
from sdrpn_bench import BenchModel, run_benchmark
from sdrpn_glyphs import backbone_dir, rpn_dir
from tests.peers.environment import run

pytestmark = pytest.mark.peers

N = 60
TWO_PROCESSES = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")


def plain(family="llava"):
    return f"pretrained={backbone_dir(family)},device=cpu"


def two_stage(family="llava"):
    return f"{plain(family)},rpn={rpn_dir(family)}"


def run_bench(out, family):
    """Responses and scores of ``sdrpn bench`` on the same records, by method."""
    run_benchmark(
        BenchModel(backbone_dir(family), rpn_dir(family)), ["baseline", "sdrpn"], "glyphs/small",
        out=out, n=N, max_new_tokens=4,
    )  # fmt: skip
    rows = [json.loads(line)["methods"] for line in (out / "items.jsonl").read_text().splitlines()]
    return {
        method: [(row[method]["text"], row[method]["score"]) for row in rows]
        for method in ("baseline", "sdrpn")
    }


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return run_bench(tmp_path_factory.mktemp("bench"), "llava")


def evaluate(folder, *words, launch=()):
    """Responses and scores, in the order of the documents; the output of the run."""
    done = run(
        *launch, "-m", "lmms_eval", "--model", "sdrpn",
        "--include_path", str(sdrpn_lmms_eval.TASKS), "--tasks", "sdrpn_glyphs_small",
        "--limit", str(N), "--log_samples", "--output_path", str(folder), *words,
        HF_HOME=str(folder / "cache"), HF_HUB_OFFLINE="1", ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    output = done.stdout + done.stderr
    files = list(folder.rglob("*_samples_*.jsonl"))
    assert len(files) == 1, output[-3000:]
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    rows.sort(key=lambda row: row["doc_id"])
    assert [row["doc_id"] for row in rows] == list(range(N))
    counts = [row["token_counts"][0] for row in rows]
    assert all(0 < count["output_tokens"] <= 4 for count in counts)
    # The image alone has 100 tokens; regions add theirs.
    assert (max(count["input_tokens"] for count in counts) > 200) == ("rpn=" in " ".join(words))
    return [(row["filtered_resps"], row["accuracy"]) for row in rows], output


def share(found):
    return sum(score for _, score in found) / len(found)


def test_the_plain_model(bench, tmp_path):
    found, _ = evaluate(tmp_path, "--model_args", plain(), "--batch_size", "8")
    assert found == bench["baseline"]
    assert share(found) < 0.3
    print(f"\nbaseline: {share(found):.4f} of {N}, {N} items as sdrpn bench")


@pytest.mark.parametrize(
    ("form", "batch_size", "launch"),
    [
        ("chat", 1, ()),
        ("chat", 8, ()),
        ("simple", 1, ()),
        ("simple", 8, ()),
        ("chat", 8, TWO_PROCESSES),
    ],
)
def test_with_the_rpn(bench, tmp_path, form, batch_size, launch):
    words = ["--model_args", two_stage(), "--batch_size", str(batch_size)]
    words += ["--force_simple"] if form == "simple" else []
    found, output = evaluate(tmp_path, *words, launch=launch)
    assert found == bench["sdrpn"]
    assert share(found) > 0.9
    if launch:
        assert "Running on rank 1" in output
    processes = "two processes" if launch else "one process"
    print(f"\nsdrpn: {share(found):.4f} of {N}, {form}, batch {batch_size}, {processes}")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "deepseek_vl"])
def test_other_families(tmp_path, family):
    expected = run_bench(tmp_path / "bench", family)
    for method, arguments in (("baseline", plain(family)), ("sdrpn", two_stage(family))):
        words = ["--model_args", arguments, "--batch_size", "8"]
        found, _ = evaluate(tmp_path / method, *words)
        assert found == expected[method]
        print(f"\n{family}, {method}: {share(found):.4f} of {N}")


def test_until_ends_an_answer(bench, tmp_path):
    words = ["--model_args", two_stage(), "--batch_size", "8", "--gen_kwargs", "until=a"]
    found, _ = evaluate(tmp_path, *words)
    assert [text for text, _ in found] == [text.partition("a")[0] for text, _ in bench["sdrpn"]]


UTILS = """
from PIL import Image

def _image(color):
    return {"type": "image", "url": Image.new("RGB", (80, 80), color)}

def doc_to_messages(doc):
    text = {"type": "text", "text": "What color is the dot on the red shape?"}
    user = {"role": "user", "content": [_image("red"), _image("blue"), text]}
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    return [user] if doc["kind"] == "images" else [system, user]

def process_results(doc, results):
    return {"length": len(results[0])}
"""
TASK = """
task: {kind}_task
dataset_path: json
dataset_kwargs: {{data_files: {{test: {kind}.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_messages: !function chat_utils.doc_to_messages
doc_to_text: ""
doc_to_target: kind
process_results: !function chat_utils.process_results
generation_kwargs: {{max_new_tokens: 4}}
metric_list: [{{metric: length, aggregation: mean, higher_is_better: true}}]
"""


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        ("images", "", "|images_task|none"),
        ("system", "", "task 'system_task', document 0: the chat has the turns system, user, but"),
        ("images", ",treshold=1", "unknown field 'treshold'; did you mean 'threshold'"),
    ],
)
def test_chats_are_served_or_refused_in_one_line(tmp_path, kind, more, expected):
    """Several images are served; a system message is not."""
    (tmp_path / "chat_utils.py").write_text(UTILS)
    (tmp_path / f"{kind}.yaml").write_text(TASK.format(kind=kind))
    (tmp_path / f"{kind}.jsonl").write_text(json.dumps({"kind": kind}) + "\n")
    done = run(
        "-m", "lmms_eval", "--model", "sdrpn", "--model_args", two_stage() + more,
        "--include_path", str(tmp_path), "--tasks", f"{kind}_task",
        HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="1",
    )  # fmt: skip
    output = done.stdout + done.stderr
    lines = [line for line in output.splitlines() if expected in line]
    assert lines, output[-3000:]
    print(f"\nexit code {done.returncode}: {lines[-1][-300:]}")
