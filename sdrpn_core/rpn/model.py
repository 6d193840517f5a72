"""The Region Proposal Network: copies of a few decoder layers, and a scorer of visual tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import Cache, DynamicCache

from sdrpn_core.backbone.decoder import part
from sdrpn_core.backbone.identity import backbone_identity, differences
from sdrpn_core.errors import CheckpointError, ConfigError
from sdrpn_core.gate.gate import Gate, new_gate
from sdrpn_core.gate.reading import GateRow, last_states, read_rows
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_core.rpn.checkpoint import (
    load_rpn_weights,
    push_rpn,
    read_rpn_config,
    save_rpn,
)
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.head import HeadInputs, PositionEmbeddings, RPNHead
from sdrpn_core.rpn.region_summary import region_summaries
from sdrpn_core.rpn.scores import RoIScores
from sdrpn_core.rpn.trunk_states import (
    PrefixReading,
    TrunkRow,
    TrunkStates,
    gate_rows,
    trunk_rows,
)
from sdrpn_core.runtime.kv_cache import join_cache, split_cache
from sdrpn_core.taps.copied_layers import copy_layers, run_layers
from sdrpn_core.util.deferred import DeferredRows
from sdrpn_core.util.option_kinds import complete_options

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.gate.config import GateConfig
    from sdrpn_core.rpn.card import CardFacts
    from sdrpn_core.runtime.block import ImagePlace
    from sdrpn_core.taps.feature_tap import Features


def check_rpn(value: object) -> None:
    """Check that a value is an RPN.

    Args:
        value: what was given as one.

    Raises:
        ConfigError: it is none; says what to write.
    """
    if isinstance(value, RPN):
        return
    if isinstance(getattr(value, "rpn", None), RPN):
        remedy = "give its rpn, or call its own methods, such as model.answer(image, question)"
    else:
        remedy = (
            "write RPN.from_pretrained(path, backbone=backbone), or load both with "
            "RoIModel.from_pretrained(path)"
        )
    raise ConfigError(f"the RPN must be an RPN, not {type(value).__name__}: {remedy}")


class RPN(nn.Module):
    """A trainable branch that leaves the frozen decoder at layer B.

    Args:
        config: what to build.
        layers: the copied decoder layers of the trunk.
        head: scorer of visual tokens.
        norm: norm between trunk and head, or ``None``.
        gate: says which questions need a region; ``None``: all are looked at.

    Use :meth:`from_backbone` for a new RPN and ``RPN.from_pretrained(folder, backbone=...)`` for a
    trained one.
    """

    def __init__(
        self,
        config: RPNConfig,
        layers: nn.ModuleList,
        head: RPNHead,
        norm: nn.Module | None = None,
        gate: Gate | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.layers = layers
        self.norm = norm
        self.head = head
        self.gate = gate
        self.gradient_checkpointing = False

    @classmethod
    def from_backbone(
        cls, backbone: Backbone, config: RPNConfig | None = None, **overrides: Any
    ) -> RPN:
        """A new RPN whose layers start as copies of the backbone's layers B .. B + R - 1.

        Args:
            backbone: where the copies come from.
            config: the configuration; default: the backbone's preset.
            overrides: fields of the configuration to replace.

        Raises:
            ConfigError: B + R exceeds the number of decoder layers, the layers could not run as
                the decoder's do (:meth:`Backbone.check_branch`), or head options that are unknown
                or of another kind.
            UnknownNameError: no head of that name.
        """
        if config is None:
            config = RPNConfig.for_backbone(backbone, **overrides)
        elif overrides:
            config = RPNConfig.from_dict({**config.to_dict(), **overrides})
        _check_place(config, backbone)
        backbone.check_branch(config.branch, config.n_layers)
        head_class = get_plugins().rpn_heads.get(config.head)
        options = complete_options(f"{config.head} head", config.head_options, head_class.defaults)
        layers = copy_layers(backbone, config.branch, config.n_layers)
        device = next(layers[0].parameters()).device
        n_trunk = len(layers) - head_class.n_own_layers(options)
        head = head_class(layers[n_trunk:], backbone.text_config, options)
        norm = copy.deepcopy(part(backbone.decoder, "norm")) if config.final_norm else None
        identity = dict(config.backbone) or backbone_identity(backbone, config.branch)
        config = RPNConfig.from_dict(
            {**config.to_dict(), "head_options": options, "backbone": identity}
        )
        gate = None if config.gate is None else new_gate(config.gate, backbone, config.branch)
        rpn = cls(config, nn.ModuleList(layers[:n_trunk]), head, norm, gate)
        rpn.to(device=device, dtype=backbone.model.dtype)
        return rpn.requires_grad_(True).eval()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        backbone: Backbone,
        dtype: torch.dtype | None = None,
        **download: Any,
    ) -> RPN:
        """Load a trained RPN and attach it to its backbone.

        Args:
            source: a local folder or a hub id.
            backbone: the backbone that it was trained on.
            dtype: of its parameters; default: the backbone's.
            download: ``revision``, ``token``, ``cache_dir`` ... for a hub id.

        Raises:
            CheckpointError: missing or broken files, or an RPN of another backbone.
        """
        config, folder = read_rpn_config(source, **download)
        try:
            _check_place(config, backbone)
        except ConfigError as error:
            raise CheckpointError(f"{source}: {error}") from error
        found = differences(config.backbone, backbone_identity(backbone, config.branch))
        if found:
            raise CheckpointError(
                f"{source}: belongs to another backbone than {backbone.name}: {'; '.join(found)}"
            )
        rpn = cls.from_backbone(backbone, config).to(dtype or backbone.model.dtype)
        load_rpn_weights(rpn, folder)
        return rpn

    def save_pretrained(self, folder: str | Path, *, card: CardFacts | None = None) -> Path:
        """Write weights, configuration and card: :func:`~sdrpn_core.rpn.checkpoint.save_rpn`."""
        return save_rpn(self.config, self.state_dict(), folder, card=card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: CardFacts | None = None,
        private: bool | None = None,
        **options: Any,
    ) -> str:
        """Upload to the Hub; see :func:`~sdrpn_core.rpn.checkpoint.push_rpn`."""
        state = self.state_dict()
        return push_rpn(self.config, state, repo_id, card=card, private=private, **options)

    def forward(self, features: Features, places: Sequence[ImagePlace]) -> RoIScores:
        """Score the visual tokens of every image of a batch, in one pass.

        Args:
            features: tapped features of the whole sequences.
            places: one entry per image.
        """
        return self.score(self.trunk(features), places)

    def trunk(self, features: Features, cache: Cache | None = None) -> TrunkStates:
        """Run the copied layers.

        Args:
            features: tapped features, of whole sequences or of what follows those in ``cache``.
            cache: the trunk's own keys and values; extended in place.

        Raises:
            ConfigError: gradient checkpointing and a cache, to which the second pass through a
                layer would append once more.
        """
        if cache is not None:
            self._check_pieces()
        checkpointing = self.gradient_checkpointing and self.training
        weight = next(self.parameters())
        hidden = run_layers(list(self.layers), features, weight, cache, checkpointing=checkpointing)
        # The head is the last of the copied layers, whose rotary embeddings may be other ones.
        last = features.kwargs_of(self.config.n_layers - 1)
        return TrunkStates(
            hidden if self.norm is None else self.norm(hidden),
            send_to_device(last.get("position_embeddings"), weight.device),
        )

    def _check_pieces(self) -> None:
        if self.gradient_checkpointing and self.training:
            raise ConfigError("gradient checkpointing needs the features in one piece")

    def score(self, states: TrunkStates, places: Sequence[ImagePlace]) -> RoIScores:
        """Score the visual tokens of every image of a batch.

        Args:
            states: what the trunk makes of the whole sequences.
            places: one entry per image.
        """
        inputs = _head_inputs(states, places)
        scores = self.head(inputs, self.config.is_distribution)
        by_question = {
            index: self._question_scores(states, place)
            for index, place in enumerate(places)
            if place.question is not None
        }
        return RoIScores(
            scores, inputs.valid, tuple(inputs.grids), self.config.is_distribution, by_question
        )

    @property
    def branch(self) -> int:
        """B, the layer whose input the trunk reads."""
        return self.config.branch

    def add_gate(self, backbone: Backbone, config: GateConfig) -> Gate:
        """Attach a new gate, whose layers start as copies of the backbone's; replaces any other.

        Args:
            backbone: the one that the RPN belongs to.
            config: which gate.

        Raises:
            ConfigError: an unknown option, or more layers than the decoder has.
            UnknownNameError: no gate of that name.
        """
        gate = new_gate(config, backbone, self.branch)
        self.gate = gate.to(next(self.parameters()))
        self.config = replace(self.config, gate=config)
        return gate

    def remove_gate(self) -> None:
        """Take the gate off, if there is one: every question then gets a region."""
        self.gate = None
        self.config = replace(self.config, gate=None)

    def gate_logits(self, features: Features, places: Sequence[ImagePlace]) -> torch.Tensor:
        """``(batch,)``: the gate's logits for left-padded prompts that end with their query.

        Args:
            features: tapped features of the whole prompts.
            places: one entry per image; a gate with layers of its own does not look at them.

        Raises:
            ConfigError: the RPN has no gate.
        """
        if self.gate is None:
            raise ConfigError("this RPN has no gate: add one with add_gate()")
        if not self.gate.layers:
            return _behind_rpn(self.gate, self, self.trunk(features), places)
        weight = next(self.gate.parameters())
        # The gate may be trained alone.
        checkpointing = self.gradient_checkpointing and self.gate.training
        hidden = run_layers(list(self.gate.layers), features, weight, checkpointing=checkpointing)
        return self.gate(hidden[:, -1])

    @torch.no_grad()
    def read_prefix(self, features: Features, starts: Sequence[int]) -> list[PrefixReading]:
        """What scoring needs of the prefixes, whatever is asked: see :class:`PrefixReader`.

        The trunk runs once a question's region is looked for, and a gate's own layers once it is
        asked, both for those prefixes alone: a sure plain answer may come before either.

        Args:
            features: of left-padded prefixes.
            starts: per row the column of its first token.

        Raises:
            ConfigError: see :meth:`trunk`.
        """
        self._check_pieces()

        @torch.no_grad()
        def run_trunk(rows: Sequence[int]) -> list[TrunkRow]:
            cache = DynamicCache()
            states = self.trunk(features.rows(rows), cache)
            chosen = [starts[row] for row in rows]
            return [
                TrunkRow(states.row(row, start), keys_values)
                for row, (start, keys_values) in enumerate(
                    zip(chosen, split_cache(cache, chosen), strict=True)
                )
            ]

        trunk = DeferredRows(len(starts), run_trunk, held=features.nbytes)
        gated = None
        if self.gate is not None and self.gate.layers:
            gated = self._deferred_gate(self.gate, features, starts)
        length = features.hidden.shape[1]
        return [
            PrefixReading(length - start, trunk, row, gated) for row, start in enumerate(starts)
        ]

    @staticmethod
    def _deferred_gate(
        gate: Gate, features: Features, starts: Sequence[int]
    ) -> DeferredRows[GateRow]:
        def run_gate(rows: Sequence[int]) -> list[GateRow]:
            return read_rows(gate, features.rows(rows), [starts[row] for row in rows])

        return DeferredRows(len(starts), run_gate, held=features.nbytes)

    @torch.no_grad()
    def gate_after(
        self,
        readings: Sequence[PrefixReading],
        features: Features | None,
        places: Sequence[ImagePlace],
    ) -> list[float]:
        """Probabilities that the questions behind prefixes need a region.

        Args:
            readings: per sequence what :meth:`read_prefix` kept.
            features: of what follows the prefixes, left-padded on its own; ``None``: nothing.
            places: one entry per image; a gate with layers of its own does not look at them.

        Raises:
            ConfigError: the RPN has no gate.
        """
        if self.gate is None:
            raise ConfigError("this RPN has no gate: add one with add_gate()")
        if rows := gate_rows(readings):
            logits = self.gate(last_states(self.gate, rows, features))
        else:
            states = self._states_after(readings, features)
            logits = _behind_rpn(self.gate, self, states, places)
        return logits.float().sigmoid().tolist()

    @torch.no_grad()
    def score_after(
        self,
        readings: Sequence[PrefixReading],
        features: Features | None,
        places: Sequence[ImagePlace],
        rows: Sequence[int] | None = None,
    ) -> RoIScores:
        """Score the images of prefixes that were read already; equals one pass over everything.

        Args:
            readings: per sequence what :meth:`read_prefix` kept.
            features: of what follows the prefixes, left-padded on its own; ``None``: nothing.
            places: one entry per image; columns of the left-padded prefixes and, behind these, of
                what follows.
            rows: numbers of the sequences whose images these are: for the others, nothing runs.
                Default: all.
        """
        if rows is not None:
            number = {row: index for index, row in enumerate(rows)}
            places = [replace(place, row=number[place.row]) for place in places]
        return self.score(self._states_after(readings, features, rows), places)

    def _states_after(
        self,
        readings: Sequence[PrefixReading],
        features: Features | None,
        rows: Sequence[int] | None = None,
    ) -> TrunkStates:
        chosen = range(len(readings)) if rows is None else rows
        trunk = trunk_rows([readings[row] for row in chosen])
        # As wide as with all rows: masks and places count these columns.
        length = max(reading.length for reading in readings)
        states = TrunkStates.padded([row.states for row in trunk], length)
        if features is None:
            return states
        cache = join_cache([row.keys_values for row in trunk], width=length)
        return states.followed_by(self.trunk(features.rows(chosen), cache))

    def _question_scores(self, states: TrunkStates, place: ImagePlace) -> torch.Tensor:
        """``(n,)``: the highest score that any token of the question gives each cell."""
        first = place.query if place.question is None else place.question
        if first > place.query:
            raise ValueError(f"the question begins at {first}, behind its end at {place.query}")
        inputs = _head_inputs(states, [place])
        asking = states.part(place.row, first, place.query + 1)
        (scores,) = self.head.highest_scores(
            inputs, asking.hidden, asking.rotary, self.config.is_distribution
        )
        return scores


def _behind_rpn(
    gate: Gate, rpn: RPN, states: TrunkStates, places: Sequence[ImagePlace]
) -> torch.Tensor:
    """``(batch,)``: logits of a gate that reads what the RPN found."""
    last = states.hidden[:, -1]
    scores = rpn.score(states, [replace(place, question=None) for place in places])
    visual = _head_inputs(states, places).visual
    region = region_summaries(visual, scores, [place.row for place in places], len(last))
    logits: torch.Tensor = gate(last, region)
    return logits


def _check_place(config: RPNConfig, backbone: Backbone) -> None:
    last = config.branch + config.n_layers - 1
    if last >= len(backbone.layers):
        raise ConfigError(
            f"an RPN at branch layer {config.branch} with {config.n_layers} layers needs decoder "
            f"layers up to {last}, but the backbone has {len(backbone.layers)} loaded"
        )


def _head_inputs(states: TrunkStates, places: Sequence[ImagePlace]) -> HeadInputs:
    hidden, rotary = states.hidden, states.rotary
    device = hidden.device
    rows = torch.tensor([place.row for place in places], device=device)
    lengths = torch.tensor([place.n_tokens for place in places], device=device)
    starts = torch.tensor([place.start for place in places], device=device)
    queries = torch.tensor([[place.query] for place in places], device=device)
    offsets = torch.arange(max(place.n_tokens for place in places), device=device)
    valid = offsets < lengths[:, None]
    columns = starts[:, None] + torch.where(valid, offsets, 0)
    firsts = None
    if all(place.first is not None for place in places):
        firsts = torch.tensor([[place.first] for place in places], device=device)
    return HeadInputs(
        visual=hidden[rows[:, None], columns],
        valid=valid,
        query=hidden[rows, queries[:, 0]],
        grids=tuple(place.grid for place in places),
        visual_rotary=_take_rotary(rotary, rows, columns),
        query_rotary=_take_rotary(rotary, rows, queries),
        first=None if firsts is None else hidden[rows, firsts[:, 0]],
        first_rotary=None if firsts is None else _take_rotary(rotary, rows, firsts),
    )


def _take_rotary(
    rotary: PositionEmbeddings | None, rows: torch.Tensor, columns: torch.Tensor
) -> PositionEmbeddings | None:
    if rotary is None:
        return None
    cos, sin = rotary
    if cos.shape[0] == 1:  # one row of positions shared by the batch
        rows = torch.zeros_like(rows)
    return cos[rows[:, None], columns], sin[rows[:, None], columns]
