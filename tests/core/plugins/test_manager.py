from __future__ import annotations

import importlib.metadata
import types

import pytest

import sdrpn_core.plugins.manager
from sdrpn_core import hookimpl
from sdrpn_core.errors import ConfigError, PluginError, UnknownNameError
from sdrpn_core.plugins.manager import CORE_API, ENTRY_POINT_GROUP, KINDS, Plugins, get_plugins
from sdrpn_core.plugins.selection import select

HEAD = """
from sdrpn_core import hookimpl
SDRPN_API = 1

@hookimpl
def sdrpn_register_rpn_heads(registry):
    registry.add({name!r}, "somewhere:Head")
"""

BROKEN = {
    "import": ("import no_such_dependency", "No module named 'no_such_dependency'"),
    "syntax": ("def (", "SyntaxError"),
    "no_api": (HEAD.format(name="x").replace("SDRPN_API = 1", ""), "does not define SDRPN_API"),
    "old_api": (HEAD.format(name="x").replace("= 1", "= 0"), "written for plugin API 0"),
    "clash": (HEAD.format(name="qk"), "RPN head 'qk' is already registered by plugin 'core'"),
    "misspelt": (
        HEAD.format(name="x").replace("rpn_heads", "rpn_haeds"),
        "sdrpn_register_rpn_haeds",
    ),
    "unmarked": (HEAD.format(name="x").replace("@hookimpl", ""), "is not marked with"),
    "argument": (HEAD.format(name="x").replace("(registry)", "(registri)"), "registri"),
    "no_model_types": (
        HEAD.format(name="x").replace("rpn_heads", "backbones"),
        "backbone 'x' has no model_types",
    ),
    "raises": (HEAD.format(name="x") + "    raise RuntimeError('boom')", "RuntimeError: boom"),
    "target": (
        HEAD.format(name="x").replace("somewhere:Head", "somewhere"),
        "'package.module:attr'",
    ),
}


def load(selection: str | None = None) -> Plugins:
    """The core and what the test installed, without the other plugins of this distribution."""
    plugins = Plugins()
    found = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    plugins.load([ep for ep in found if ep.name == "core" or ep.dist.name != "sdrpn"], selection)
    return plugins


def info_of(plugins: Plugins, name: str) -> sdrpn_core.plugins.manager.PluginInfo:
    return next(info for info in plugins.infos if info.name == name)


def contents(plugins: Plugins) -> dict[str, list[str]]:
    return {kind: getattr(plugins, kind).names() for kind in KINDS}


def test_the_core_registers_its_own_parts_through_the_hooks():
    plugins = load("")
    assert {"qk", "conv"} <= set(plugins.rpn_heads.names())
    assert {"bbox", "mask"} <= set(plugins.crop_policies.names())
    assert "threshold" in plugins.pseudo_labelers
    assert {"plugins", "label", "train", "ask", "roi"} <= set(plugins.commands.names())
    assert all(plugins.commands.entry(name).help for name in plugins.commands.names())
    assert plugins.backbones.names() == []


def test_every_installed_plugin_loads():
    plugins = Plugins()
    plugins.load(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))
    assert plugins.failures == []
    assert {"core", "llava", "bench", "glyphs"} <= {info.name for info in plugins.infos}


def test_get_plugins_loads_once(fresh_plugins):
    assert get_plugins() is fresh_plugins


def test_get_plugins_honors_the_environment(monkeypatch):
    monkeypatch.setattr(sdrpn_core.plugins.manager, "_plugins", None)
    monkeypatch.setenv("SDRPN_PLUGINS", "")
    assert [info.name for info in get_plugins().infos if info.status == "ok"] == ["core"]


def test_an_installed_plugin_is_found_and_described(install_plugin):
    install_plugin("acme", HEAD.format(name="mine"))
    info = info_of(load(), "acme")
    assert (info.version, info.origin, info.status) == ("1.2.3", "sdrpn-acme", "ok")
    assert info.registers == {"rpn_heads": ["mine"]}
    assert info.error is None


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plugin_is_isolated_and_named(install_plugin, fault):
    before = load()
    source, reason = BROKEN[fault]
    install_plugin("acme", source)
    plugins = load()
    info = info_of(plugins, "acme")
    assert [failure.name for failure in plugins.failures] == ["acme"]
    assert info.status == "failed"
    assert info.registers == {}
    assert info.error.startswith("plugin 'acme': ")
    assert reason in info.error
    assert "SDRPN_PLUGINS=-acme" in info.error
    assert "\n" not in info.error
    assert contents(plugins) == contents(before)


def test_a_plugin_loaded_after_a_broken_one_still_works(install_plugin):
    install_plugin("aaa", BROKEN["misspelt"][0])
    install_plugin("zzz", HEAD.format(name="mine"))
    plugins = load()
    assert info_of(plugins, "aaa").status == "failed"
    assert plugins.rpn_heads.entry("mine").origin == "zzz"


def test_a_plugin_that_fails_halfway_leaves_nothing_behind(install_plugin):
    install_plugin(
        "acme",
        HEAD.format(name="mine")
        + """
@hookimpl
def sdrpn_register_commands(registry):
    registry.add("other", "somewhere:command")
    registry.add("train", "somewhere:command")
""",
    )
    plugins = load()
    assert "mine" not in plugins.rpn_heads
    assert "other" not in plugins.commands
    assert plugins.commands.entry("train").origin == "core"


def test_a_disabled_plugin_is_not_imported(install_plugin):
    install_plugin("acme", "raise RuntimeError('imported')")
    install_plugin("other", HEAD.format(name="mine"))
    plugins = load("-acme")
    assert plugins.failures == []
    assert info_of(plugins, "acme").status == "disabled"
    assert info_of(plugins, "other").status == "ok"


def test_only_the_named_plugins_and_the_core_are_loaded(install_plugin):
    install_plugin("acme", HEAD.format(name="mine"))
    install_plugin("other", HEAD.format(name="mine"))
    plugins = load(" acme ,")
    assert {info.name for info in plugins.infos if info.status == "ok"} == {"core", "acme"}
    assert info_of(plugins, "other").status == "disabled"


def test_two_distributions_with_a_plugin_of_one_name(install_plugin):
    install_plugin("acme", HEAD.format(name="one"), distribution="a-first", module="first")
    install_plugin("acme", HEAD.format(name="two"), distribution="b-second", module="second")
    plugins = load()
    (failure,) = plugins.failures
    used = info_of(plugins, "acme").origin
    assert {used, failure.origin} == {"a-first", "b-second"}
    assert f"uninstall one (that of {used} is used)" in failure.error
    assert len({"one", "two"} & set(plugins.rpn_heads.names())) == 1
    assert load("-acme").failures == []


def test_an_unknown_name_hints_at_plugins_that_are_not_loaded(install_plugin):
    install_plugin("acme", BROKEN["raises"][0])
    with pytest.raises(UnknownNameError, match="plugins not loaded: acme, see `sdrpn plugins`"):
        load().rpn_heads.get("mine")


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (None, {"core", "llava", "bench"}),
        ("", {"core"}),
        ("  ", {"core"}),
        ("core", {"core"}),
        ("llava", {"core", "llava"}),
        ("llava, bench", {"core", "llava", "bench"}),
        ("-llava", {"core", "bench"}),
        ("-llava,- bench", {"core"}),
    ],
)
def test_selection(selection, chosen):
    assert select(selection, ["core", "llava", "bench"]) == chosen


@pytest.mark.parametrize("selection", ["lava", "-lava"])
def test_an_unknown_selection_lists_near_names(selection):
    with pytest.raises(UnknownNameError) as caught:
        select(selection, ["core", "llava", "bench"])
    assert str(caught.value) == (
        "unknown plugin 'lava' in SDRPN_PLUGINS: did you mean 'llava'? (known: bench, core, llava)"
    )


@pytest.mark.parametrize(
    ("selection", "reason"), [("llava,-bench", "mixes"), ("-core", "cannot be disabled")]
)
def test_a_contradictory_selection_is_refused(selection, reason):
    with pytest.raises(ConfigError, match=reason):
        select(selection, ["core", "llava", "bench"])


def plugin_module(**attributes: object) -> types.ModuleType:
    module = types.ModuleType("by_hand")
    vars(module).update({"SDRPN_API": CORE_API, **attributes})
    return module


@hookimpl
def sdrpn_register_datasets(registry):
    registry.add("mine", lambda n, seed: [])


def test_register_and_unregister_by_hand(fresh_plugins):
    before = contents(fresh_plugins)
    module = plugin_module(sdrpn_register_datasets=sdrpn_register_datasets, __version__="9")
    fresh_plugins.register(module, "hand")
    info = info_of(fresh_plugins, "hand")
    assert (info.version, info.origin, info.status) == ("9", "by_hand", "ok")
    assert info.registers == {"datasets": ["mine"]}
    assert get_plugins().datasets.get("mine")(None, 0) == []

    fresh_plugins.unregister("hand")
    assert contents(fresh_plugins) == before
    assert "hand" not in [info.name for info in fresh_plugins.infos]
    fresh_plugins.register(module, "hand")
    assert "mine" in fresh_plugins.datasets


def test_registering_an_object_calls_only_its_own_hooks(fresh_plugins):
    class Notebook:
        SDRPN_API = CORE_API

        @hookimpl
        def sdrpn_register_methods(self, registry):
            registry.add("mine", "somewhere:Mine")

    fresh_plugins.register(Notebook(), "notebook")
    assert info_of(fresh_plugins, "notebook").registers == {"methods": ["mine"]}
    assert info_of(fresh_plugins, "notebook").origin == "Notebook"


def test_registering_a_broken_plugin_by_hand_raises(fresh_plugins):
    before = contents(fresh_plugins)
    with pytest.raises(PluginError, match="plugin 'hand': was written for plugin API 99"):
        fresh_plugins.register(plugin_module(SDRPN_API=99), "hand")
    assert contents(fresh_plugins) == before
    assert "hand" not in [info.name for info in fresh_plugins.infos]


def test_a_taken_plugin_name_is_refused(fresh_plugins):
    with pytest.raises(PluginError, match="already loaded"):
        fresh_plugins.register(plugin_module(), "core")
    assert "qk" in fresh_plugins.rpn_heads


def test_unregistering_an_unknown_plugin_lists_near_names(fresh_plugins):
    with pytest.raises(UnknownNameError, match="did you mean 'core'"):
        fresh_plugins.unregister("cor")
