"""The page on serving: its client asks a server, its commands and its configuration are read."""

from __future__ import annotations

import hashlib
import re
import shlex

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

pytest.importorskip("ray.serve", reason="the extra 'serve' is not installed")

import yaml

import sdrpn_serve.run
from sdrpn_core import RoIModel, open_image, read_records
from sdrpn_core.answering.defaults import DEFAULT_MAX_NEW_TOKENS
from sdrpn_core.cli.main import app
from sdrpn_glyphs import rpn_dir
from sdrpn_serve.app import make_app
from sdrpn_serve.deployment import build
from sdrpn_serve.runner import ModelRunner
from sdrpn_serve.served_model import ServedModel
from sdrpn_serve.settings import Limits, ModelSettings, ServerSettings, key_digest
from tests.docs.fences import ROOT, run_blocks, shell_lines
from tests.plugins.serving import LocalEngine, listening

PAGE = "docs/serving.md"


def test_the_client_gets_an_answer(tmp_path, monkeypatch, capsys):
    record = read_records("glyphs/small", n=1)[0]
    open_image(record.images[0]).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    model = RoIModel.from_pretrained(rpn_dir("llava"))
    engine = LocalEngine(ModelRunner(ServedModel(model, 10**6), 1))
    settings = ServerSettings("llava-1.5-7b-hf", ModelSettings("unused"))
    with listening(make_app(engine, settings)) as url:
        replace = {
            "http://127.0.0.1:8000": url,
            "What is written on the sign?": record.question,
        }
        run_blocks(PAGE, {}, replace)
    answer, looked_at = capsys.readouterr().out.splitlines()
    assert answer.startswith(record.answer)
    assert looked_at.startswith("ok [[")


def test_the_commands_are_understood(monkeypatch):
    understood: list[ServerSettings] = []
    monkeypatch.setattr(
        sdrpn_serve.run, "run_server", lambda settings, **options: understood.append(settings)
    )
    lines = [line for line in shell_lines(PAGE) if line.startswith("sdrpn serve ")]
    for line in lines:
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, result.stderr
    assert [(s.name, s.model.rpn, s.replicas.max_replicas) for s in understood] == [
        ("llava-1.5-7b-hf", "runs/rpn/rpn", 1),
        ("MODEL", "RPN", 16),
    ]


def test_the_configuration_is_one():
    tokens = MarkdownIt().parse((ROOT / PAGE).read_text(encoding="utf-8"))
    (text,) = [t.content for t in tokens if t.type == "fence" and t.info.strip() == "yaml"]
    (application,) = yaml.safe_load(text)["applications"]
    module, _, function = application["import_path"].partition(":")
    assert (module, function) == (build.__module__, build.__name__)
    build(application["args"])


def test_the_bounds_are_those_of_the_code():
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    limits = Limits()
    for option, shown in (
        ("--max-body", f"{limits.max_body_bytes:,} bytes"),
        ("--max-images", str(limits.max_images)),
        ("--max-pixels", f"{limits.max_pixels:,}"),
        ("--max-new-tokens", str(limits.max_new_tokens)),
        ("--max-queue", str(limits.max_queue)),
        ("--timeout", f"{limits.timeout_s:g} seconds"),
    ):
        assert re.search(rf"\| `{option}` \| {shown} \|", text), option
    assert f"without a wish it gets {DEFAULT_MAX_NEW_TOKENS} " in text


def test_the_digest_of_a_key_is_that_of_sha256sum():
    assert key_digest("secret") == hashlib.sha256(b"secret").hexdigest()
