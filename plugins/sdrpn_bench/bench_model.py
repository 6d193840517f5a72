"""The models that are compared: source, RPN, name, and a fingerprint of the weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.backbone.loading import HUB_OPTIONS, find_backbone, load_backbone
from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.checkpoint import read_rpn_config
from sdrpn_core.rpn.model import RPN
from sdrpn_core.util.whole_numbers import check_count

if TYPE_CHECKING:
    import torch

#: Arguments of ``load_backbone`` that decide which config is read.
_ABOUT_THE_CONFIG = frozenset({*HUB_OPTIONS, "revision", "trust_remote_code"})


@dataclass(frozen=True)
class BenchModel:
    """A backbone under test.

    Attributes:
        source: local folder, Hub ID, or a loaded backbone.
        rpn: its RPN: local folder, Hub ID, or a loaded RPN; ``None`` if it has none.
        name: its name in the report; default: the last part of ``source``, and what else tells it
            from the others, see :func:`~sdrpn_bench.model_names.with_names`.
        visual_tokens: largest number of visual tokens per image and per crop, for families of
            dynamic resolution; ``None``: as its processor is set.
    """

    source: str | Path | Backbone
    rpn: str | Path | RPN | None = None
    name: str | None = None
    visual_tokens: int | None = None

    @classmethod
    def parse(cls, text: str) -> BenchModel:
        """Parse ``PATH`` or ``PATH=RPN``; an existing folder with ``=`` in its name is a path.

        Raises:
            ConfigError: neither of the two forms.
        """
        source, separator, rpn = text.rpartition("=")
        if not separator or Path(text).exists():
            return cls(text)
        if not source or not rpn:
            raise ConfigError(f"model {text!r}: write PATH or PATH=RPN")
        return cls(source, rpn)

    @property
    def origin(self) -> str:
        """Path or Hub ID of the backbone."""
        return self.source.name if isinstance(self.source, Backbone) else str(self.source)

    @property
    def rpn_origin(self) -> str | None:
        """Path or Hub ID of the RPN; ``(loaded)`` for an RPN object."""
        if self.rpn is None:
            return None
        return "(loaded)" if isinstance(self.rpn, RPN) else str(self.rpn)

    @property
    def label(self) -> str:
        """The name with the budget."""
        return (
            f"{self.name}" if self.visual_tokens is None else f"{self.name} @{self.visual_tokens}"
        )

    def check(self, **load_options: Any) -> None:
        """Find what can be found wrong without loading weights, which takes longer.

        Raises:
            InputError: no model there.
            UnknownNameError: no adapter serves its model type.
            ConfigError: its decoder cannot be served, or its family has a fixed resolution and a
                budget of visual tokens is given.
            CheckpointError: no RPN there, or its configuration is broken or too new.
        """
        backbone: Backbone | type[Backbone]
        if isinstance(self.source, Backbone):
            backbone = self.source
        else:
            known = {k: load_options[k] for k in _ABOUT_THE_CONFIG & load_options.keys()}
            backbone = find_backbone(self.source, **known)
        if self.visual_tokens is not None and not backbone.dynamic_resolution:
            raise ConfigError(
                f"model {self.name or self.origin!r}: the family's resolution is fixed, so a "
                f"budget of {self.visual_tokens} cannot be set: run it without budgets"
            )
        if not (self.rpn is None or isinstance(self.rpn, RPN)):
            read_rpn_config(self.rpn)

    def load(self, **load_options: Any) -> tuple[Backbone, RPN | None]:
        """Load the backbone and its RPN.

        Raises:
            ConfigError: a budget of visual tokens for a family of fixed resolution.
            SdrpnError: see ``load_backbone`` and ``RPN.from_pretrained``.
        """
        backbone = (
            self.source
            if isinstance(self.source, Backbone)
            else load_backbone(self.source, **load_options)
        )
        if self.visual_tokens is not None:
            backbone = backbone.with_visual_tokens(self.visual_tokens)
        if self.rpn is None or isinstance(self.rpn, RPN):
            return backbone, self.rpn
        return backbone, RPN.from_pretrained(self.rpn, backbone=backbone)


def with_budgets(models: Sequence[BenchModel], budgets: Sequence[int]) -> list[BenchModel]:
    """Every model with every budget of visual tokens; without budgets, the models as they are.

    Raises:
        ConfigError: a budget is not positive.
    """
    for budget in budgets:
        check_count(budget, "a budget of visual tokens")
    if not budgets:
        return list(models)
    return [replace(model, visual_tokens=budget) for model in models for budget in budgets]


def fingerprint(backbone: Backbone, rpn: RPN | None) -> str:
    """Hex digest of everything that answers: the backbone's identity, and the RPN's weights."""
    facts = backbone_identity(backbone, 0)
    del facts["name"]  # a moved folder is the same model
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    if rpn is not None:
        values = {**rpn.config.to_dict(), "backbone": None, "versions": None}
        digest.update(json.dumps(values, sort_keys=True).encode())
        for name, tensor in sorted(rpn.state_dict().items()):
            digest.update(name.encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    import torch

    # NumPy has no bfloat16, but it has bytes.
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
