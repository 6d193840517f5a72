"""What ``sdrpn serve`` refuses before it starts anything."""

from __future__ import annotations

import socket
import sys

import pytest
from typer.testing import CliRunner

pytest.importorskip("ray.serve", reason="the extra 'serve' is not installed")

from sdrpn_core.cli.main import app
from sdrpn_glyphs import backbone_dir, rpn_dir

RPN = str(rpn_dir("llava"))


def refusal(*words: str, **environment: str) -> str:
    result = CliRunner(env=environment).invoke(app, ["serve", "--rpn", *words])
    assert result.exit_code == 1, result.output
    assert result.stderr.count("error: ") == 1
    return result.stderr.strip().splitlines()[-1]


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("sdrpn_serve.")]:
        monkeypatch.delitem(sys.modules, name)
    assert refusal(RPN).endswith("pip install 'sdrpn[serve]'")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--replicas", "two"), "--replicas 'two': write a number, or a range such as 1-4"),
        (("--replicas", "3-2"), "at most 2 replicas are fewer than at least 3"),
        (("--replicas", "0"), "min_replicas must be more than 0"),
        (("--api-key", " "), "visible ASCII characters"),
        (("--policy", "boxes"), "unknown crop policy 'boxes'"),
        (("--threshold", "-1"), "threshold"),
        (("--gate-threshold", "0.1"), "this RPN has no gate"),
        (("--confidence-threshold", "0"), "above 0, at most 1, not 0"),
        (("--host", "203.0.113.1"), "cannot listen at 203.0.113.1:8000 (Cannot assign"),
        (("--address", "127.0.0.1:1"), "there is no Ray cluster at 127.0.0.1:1: "),
    ],
)
def test_mistakes_are_said_before_anything_starts(words, said):
    assert said in refusal(RPN, *words)


def test_the_options_reach_the_model(monkeypatch):
    settings = []
    monkeypatch.setattr("sdrpn_serve.run.run_server", lambda given, **how: settings.append(given))
    words = ["--first-look-tokens=49", "--confidence-threshold=0.5", "--gate-threshold=0.1"]
    result = CliRunner().invoke(app, ["serve", "--rpn", RPN, *words])
    assert result.exit_code == 0, result.output
    model = settings[0].model
    assert (model.first_look_tokens, model.confidence_threshold, model.gate_threshold) == (
        49,
        0.5,
        0.1,
    )


def test_a_key_from_the_environment_is_checked_too():
    assert "visible ASCII characters" in refusal(RPN, SDRPN_API_KEY="a b")


def test_a_backbone_alone_is_refused():
    assert "config.json" in refusal(str(backbone_dir("llava")))


def test_a_taken_port_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refusal(RPN, "--port", str(port))
    assert line.endswith("choose another --port")
    assert f"127.0.0.1:{port}" in line
