from __future__ import annotations

import sys

import pytest

from sdrpn_core.errors import ConfigError, MissingExtraError, PluginError, UnknownNameError
from sdrpn_core.plugins.registry import Kind, Registry


@pytest.fixture
def registry() -> Registry[object]:
    return Registry(Kind("RPN head", called=False))


def test_names_keep_the_order_of_registration(registry):
    for name in ("b", "a", "c"):
        registry.add(name, object())
    assert registry.names() == ["b", "a", "c"]
    assert [entry.name for entry in registry.entries()] == ["b", "a", "c"]
    assert len(registry) == 3
    assert "a" in registry
    assert "d" not in registry


def test_an_object_is_returned_as_it_is(registry):
    target = object()
    registry.add("mine", target)
    assert registry.get("mine") is target


def test_metadata_is_read_without_importing_the_target(registry):
    registry.add("mine", "no.such.module:Attr", help="a line", model_types=("x",))
    entry = registry.entry("mine")
    assert entry.help == "a line"
    assert entry.metadata == {"model_types": ("x",)}


@pytest.mark.parametrize("types", [{}, {"model_types": ()}])
@pytest.mark.parametrize("target", ["package.module:Cls", object()])
def test_what_is_found_by_model_type_alone_must_say_which(types, target):
    kind = Kind("backbone", called=False, by_model_type=True, needs_model_types=True)
    registry = Registry(kind)
    with registry.registering_as("acme"), pytest.raises(PluginError) as caught:
        registry.add("mine", target, help="h", **types)
    assert registry.names() == []
    assert str(caught.value).startswith(
        "plugin 'acme': backbone 'mine' has no model_types, so no model would lead to it: "
        "pass registry.add(..., model_types=(...)), the values of config.model_type that it serves"
    )


def test_a_preset_may_be_for_any_model_type():
    registry = Registry(Kind("preset", called=False, by_model_type=True))
    registry.add("mine", "package.module:PRESET")
    assert registry.names() == ["mine"]


def test_a_string_is_imported_on_first_use_and_then_kept(registry, tmp_path, monkeypatch):
    (tmp_path / "lazily_imported.py").write_text("class Outer:\n    class Inner: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.add("mine", "lazily_imported:Outer.Inner")
    assert "lazily_imported" not in sys.modules
    first = registry.get("mine")
    assert first.__qualname__ == "Outer.Inner"
    del sys.modules["lazily_imported"]
    assert registry.get("mine") is first


def test_a_duplicate_names_both_plugins_and_keeps_the_first(registry):
    with registry.registering_as("first"):
        registry.add("same", 1)
    with registry.registering_as("second"), pytest.raises(PluginError) as caught:
        registry.add("same", 2)
    assert caught.value.plugin == "second"
    assert "RPN head 'same' is already registered by plugin 'first'" in str(caught.value)
    assert registry.get("same") == 1
    assert registry.entry("same").origin == "first"


@pytest.mark.parametrize("target", ["package.module", ":Attr", "package.module:", ""])
def test_a_malformed_target_is_refused_when_registered(registry, target):
    with (
        registry.registering_as("acme"),
        pytest.raises(PluginError, match=r"is not 'package\.module:attr'"),
    ):
        registry.add("mine", target)
    assert registry.names() == []


@pytest.mark.parametrize("name", ["", " padded ", None])
def test_a_malformed_name_is_refused(registry, name):
    with pytest.raises(ConfigError, match="not a plain word"):
        registry.add(name, object())


def test_what_no_plugin_registered_is_not_blamed_on_one(registry):
    registry.add("same", 1)
    with pytest.raises(ConfigError, match="already registered"):
        registry.add("same", 2)


def test_an_unknown_name_lists_near_names_and_all_names(registry):
    registry.add("bbox", 1)
    registry.add("mask", 2)
    with pytest.raises(UnknownNameError) as caught:
        registry.get("BBx")
    assert str(caught.value) == ("unknown RPN head 'BBx': did you mean 'bbox'? (known: bbox, mask)")
    assert isinstance(caught.value, LookupError)


def test_an_unknown_name_in_an_empty_registry_says_so():
    registry = Registry(Kind("dataset"), hint=lambda: "plugin x is not loaded")
    with pytest.raises(UnknownNameError) as caught:
        registry.get("any")
    assert str(caught.value) == "unknown dataset 'any' (known: none); plugin x is not loaded"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("1 / 0", "ZeroDivisionError"),
        ("", "AttributeError"),
        ("def (", "SyntaxError"),
    ],
)
def test_a_broken_target_is_an_error_that_names_the_plugin(
    registry, tmp_path, monkeypatch, source, reason
):
    module = f"broken_{abs(hash(source))}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with registry.registering_as("acme"):
        registry.add("mine", f"{module}:Attr")
    with pytest.raises(PluginError) as caught:
        registry.get("mine")
    message = str(caught.value)
    assert message.startswith("plugin 'acme': cannot import RPN head 'mine' from")
    assert reason in message
    assert "SDRPN_PLUGINS=-acme" in message
    assert "\n" not in message


def test_a_missing_extra_is_passed_on_as_it_is(registry, tmp_path, monkeypatch):
    (tmp_path / "needs_extra.py").write_text(
        "from sdrpn_core.errors import MissingExtraError\n"
        "raise MissingExtraError('the demo', 'demo')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.add("mine", "needs_extra:Attr")
    with pytest.raises(MissingExtraError, match=r"pip install 'sdrpn\[demo\]'"):
        registry.get("mine")


def test_removing_an_origin_leaves_the_others(registry):
    for origin in ("a", "b"):
        with registry.registering_as(origin):
            registry.add(f"{origin}1", 1)
            registry.add(f"{origin}2", 2)
    assert registry.get("a1") == 1
    registry.remove_origin("a")
    assert registry.names() == ["b1", "b2"]
    registry.add("a1", 3)
    assert registry.get("a1") == 3


def test_the_origin_is_restored_after_an_error(registry):
    with pytest.raises(RuntimeError), registry.registering_as("acme"):
        raise RuntimeError
    registry.add("mine", 1)
    assert registry.entry("mine").origin != "acme"
