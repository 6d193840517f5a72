"""What a killed run leaves behind is read, and nothing is lost or doubled."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdrpn_bench.item_store import ItemStore
from sdrpn_core.errors import ConfigError, InputError

CONFIG = {
    "seed": 0,
    "n": 4,
    "data": "records",
    "data_fingerprint": "0f" * 32,
    "methods": {"a": {"x": None}},
    "models": {"m": {"rpn": None}},
    "sizes": (1, 2),
}


def row(index, model="m", **values):
    known = {"model": model, "index": index, "fingerprint": "f", "id": str(index)}
    return {**known, "error": "none", **values}


def test_rows_come_back_in_order_from_all_processes(tmp_path):
    ItemStore(tmp_path, 1).append([row(2), row(0)])
    ItemStore(tmp_path).append([row(1), row(0, model="k")])
    expected = [row(0, model="k"), row(0), row(1), row(2)]
    assert ItemStore(tmp_path).read() == expected
    ItemStore(tmp_path).merge()
    assert [path.name for path in tmp_path.iterdir()] == ["items.jsonl"]
    assert ItemStore(tmp_path).read() == expected


@given(cut=st.integers(0, 400))
def test_a_kill_at_any_byte_loses_only_unfinished_rows(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("store")
    store = ItemStore(folder)
    store.append([row(i, error="é\n") for i in range(4)])
    path = folder / "items.jsonl"
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    kept = data.count(b"\n")
    assert [found["index"] for found in store.read()] == list(range(kept))
    store.append([row(i, error="again") for i in range(kept, 6)])
    assert [found["index"] for found in store.read()] == list(range(6))


def test_a_broken_line_is_an_error(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"model": "m"}\n')
    with pytest.raises(InputError, match=r"items.jsonl: line 1 is not an item result"):
        ItemStore(tmp_path).read()


def test_the_same_settings_go_on_and_others_do_not(tmp_path):
    store = ItemStore(tmp_path)
    store.write_config({**CONFIG, "seed": 5})
    store.write_config(CONFIG)  # nothing was answered yet
    store.append([row(0)])
    store.write_config(CONFIG)
    with pytest.raises(ConfigError, match=r"seed is 0 there and 1 here.*--overwrite"):
        store.write_config({**CONFIG, "seed": 1})
    with pytest.raises(ConfigError, match=r"methods\.a\.x is null there and 1 here"):
        store.write_config({**CONFIG, "methods": {"a": {"x": 1}}})
    (tmp_path / "results.json").write_text("{}")
    store.clear()
    assert not (tmp_path / "results.json").exists()  # it would tell of the run before
    store.write_config({**CONFIG, "seed": 1})
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"methods": {"a": {"x": None}, "center": {"share": 0.5, "side": None}}},
            "method 'center' is not part of that run",
        ),
        ({"methods": {"b": {}}}, "method 'b' is not .*; method 'a' is part of that run alone"),
        ({"models": {"k": {"rpn": None}}}, "model 'k' is not part .*; model 'm' is part .* alone"),
        ({"n": 6, "data_fingerprint": "1e" * 32}, "n is 4 there and 6 here"),
        ({"data_fingerprint": "1e" * 32}, "the records of records are others there"),
    ],
)
def test_another_run_is_told_in_few_words(tmp_path, changes, says):
    store = ItemStore(tmp_path)
    store.write_config(CONFIG)
    store.append([row(0)])
    with pytest.raises(ConfigError, match=f"another benchmark run: {says}: choose") as caught:
        store.write_config({**CONFIG, **changes})
    assert "share" not in str(caught.value)
    assert "0f0f" not in str(caught.value)


@pytest.mark.parametrize("methods", [None, 3, ["a"]])
def test_a_damaged_configuration_is_another_run(tmp_path, methods):
    store = ItemStore(tmp_path)
    store.write_config({**CONFIG, "methods": methods})
    store.append([row(0)])
    with pytest.raises(ConfigError, match=r"another benchmark run: methods"):
        store.write_config(CONFIG)


def test_results_without_settings_are_refused(tmp_path):
    store = ItemStore(tmp_path)
    store.append([row(0)])
    with pytest.raises(ConfigError, match=r"no config.json"):
        store.write_config(CONFIG)


@pytest.mark.parametrize("score", [1.5, -0.1, "1", None, True])
def test_a_score_is_a_number_from_0_to_1(tmp_path, score):
    result = {"score": score, "outcome": "plain", "seconds": 0.1}
    line = {**row(0), "methods": {"baseline": result}}
    del line["error"]
    (tmp_path / "items.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match=r"line 1 is not an item result: .*score"):
        ItemStore(tmp_path).read()
