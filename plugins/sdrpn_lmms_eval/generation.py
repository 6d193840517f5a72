"""The generation settings of a task, as sdrpn takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from sdrpn_core.errors import ConfigError
from sdrpn_core.runtime.generate_options import check_generate_options

DEFAULT_MAX_NEW_TOKENS = 1024
"""As of lmms-eval's own LLaVA, for tasks that set no limit; short answers end long before."""

_OF_OTHER_MODELS = {"image_aspect_ratio"}
"""How some models preprocess images; ours do it as their processor says."""


@dataclass(frozen=True)
class Generation:
    """How the answers to some requests are generated.

    Attributes:
        max_new_tokens: maximum length of an answer.
        until: texts at which an answer ends; they are no part of it.
        options: further arguments of ``generate()``.
    """

    max_new_tokens: int
    until: tuple[str, ...]
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Generation:
        """The settings of a task's ``generation_kwargs``, updated by ``--gen_kwargs``.

        A temperature of 0 means greedy decoding, as everywhere in lmms-eval.

        Raises:
            ConfigError: a setting that cannot be served, or that ``generate()`` does not have.
        """
        rest = {k: v for k, v in settings.items() if v is not None and k not in _OF_OTHER_MODELS}
        until = rest.pop("until", ())
        limit = rest.pop("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)
        if rest.get("num_beams") == 1:
            del rest["num_beams"]
        if not rest.get("do_sample", True) or rest.get("temperature") == 0:
            rest["do_sample"] = False
        else:
            rest["do_sample"] = "temperature" in rest or "do_sample" in rest
        if not rest["do_sample"]:
            for name in ("temperature", "top_p", "top_k"):
                rest.pop(name, None)
        check_generate_options(rest)
        known = GenerationConfig()
        for name in rest:
            if not hasattr(known, name):
                raise ConfigError(f"generation_kwargs: generate() has no option {name!r}")
        texts = (until,) if isinstance(until, str) else tuple(until)
        return cls(int(limit), tuple(filter(None, texts)), rest)

    def cut(self, text: str) -> str:
        """The text up to the first of the texts at which an answer ends."""
        places = [place for end in self.until if (place := text.find(end)) >= 0]
        return text[: min(places)] if places else text
