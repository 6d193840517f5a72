"""What runs the contract on an adapter that breaks it, and on it alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, ClassVar

import pytest

import sdrpn_core.plugins.manager
from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.preset import Preset
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import CORE_PLUGIN
from sdrpn_core.plugins.hookspecs import hookimpl
from sdrpn_core.plugins.manager import ENTRY_POINT_GROUP, Plugins
from sdrpn_core.testing import BackboneContract
from sdrpn_core.testing.subject import ContractSubject
from tests.contract.subjects import LlavaSubject, between_vision_tokens
from tests.tiny import CHAT_TEMPLATE, tiny_llava
from tests.tiny_qwen2_5_vl import MAX_TOKENS, MIN_TOKENS, tiny_qwen2_5_vl


class Broken(LlavaSubject, BackboneContract):
    """A contract that an adapter breaks.

    Attributes:
        adapter: the adapter; no other one is registered.
        healthy: a tiny model whose own adapter it replaces.
        presets: registered beside it.
        noticed: ``{check: part of its message}`` of every check that must fail, and no other may.
    """

    adapter: ClassVar[type[Backbone]]
    healthy: ClassVar[Callable[..., Backbone]] = staticmethod(
        partial(tiny_llava, chat_template=CHAT_TEMPLATE)
    )
    presets: ClassVar[tuple[Preset, ...]] = ()
    noticed: ClassVar[Mapping[str, str]]
    sizes = ((240, 160), (80, 240))

    @classmethod
    def questions(cls) -> list[Question]:
        """One with an image less, to save time: a mistake shows in those that are left."""
        first, _, *others = super().questions()
        return [first, *others]

    @classmethod
    def make(cls, **options: Any) -> Backbone:
        healthy = cls.healthy(**options)
        healthy.decoder._forward_pre_hooks.clear()  # the healthy adapter's
        return cls.adapter(healthy.model, healthy.processor, name=healthy.name)

    @classmethod
    def register(cls, registry: Any) -> None:
        registry.add("broken", cls.adapter, model_types=cls.adapter.model_types)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _alone(cls) -> Iterator[None]:
        @hookimpl
        def sdrpn_register_backbones(registry: Any) -> None:
            cls.register(registry)

        @hookimpl
        def sdrpn_register_presets(registry: Any) -> None:
            for preset in cls.presets:
                registry.add(preset.name, preset, model_types=cls.adapter.model_types)

        module = ModuleType("broken")
        module.SDRPN_API = 1
        module.sdrpn_register_backbones = sdrpn_register_backbones
        module.sdrpn_register_presets = sdrpn_register_presets
        plugins = Plugins()
        plugins.load(entry_points(group=ENTRY_POINT_GROUP, name=CORE_PLUGIN))
        plugins.register(module, "broken")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sdrpn_core.plugins.manager, "_plugins", plugins)
            yield


class BrokenQwen(Broken):
    healthy = staticmethod(tiny_qwen2_5_vl)
    system_message = None
    stock_image = ContractSubject.stock_image
    crop_frame = staticmethod(between_vision_tokens)
    min_visual_tokens = MIN_TOKENS
    max_visual_tokens = MAX_TOKENS
