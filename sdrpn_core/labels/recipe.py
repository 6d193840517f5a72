"""The label recipe: which attention heads are read, and every number of the labeling."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from sdrpn_core.errors import ConfigError
from sdrpn_core.util.dataclass_reader import read_dataclass
from sdrpn_core.util.json_files import parse_json_object

ALL_HEADS: Literal["all"] = "all"
"""Stands for every head of a layer."""

_QUESTION = "{question}"
"""Where a template has the question."""

Heads: TypeAlias = tuple[int, ...] | Literal["all"]
HeadsByLayer: TypeAlias = dict[int, Heads]


@dataclass(frozen=True)
class LabelRecipe:
    """How attention becomes RoI labels.

    The defaults are the published padded-square recipe (arXiv:2509.16944). The dynamic-resolution
    recipe published with it sets sink_threshold=1e-2, min_peak=5e-3, box_blur and padding_is_sink.
    Layers and heads count from 0.

    Attributes:
        grounding: {layer: heads} whose response-to-image attention, averaged over all listed heads,
            is the grounding map.
        sink: {layer: heads} whose average is the sink map; ``"all"`` stands for every head of the
            layer. Empty: no sink is removed (published for text-rich data).
        sink_threshold: a cell whose sink map reaches this is a sink (>=). Published: 1e-3, and 1e-2
            for dynamic resolution.
        foreground: cells strictly above this share of the map's maximum are foreground.
            Published: 0.2.
        background: cells outside the foreground box strictly below this share are background.
            Published: 0.1.
        max_box_fraction: where the foreground box does not cover strictly less of the grid than
            this, the sample is ignored. Published: 0.5.
        min_peak: a map whose maximum is below this is ignored. Published: 5e-3 for dynamic
            resolution, none (0) for padded squares.
        box_blur: take the foreground box after a 3x3 blur, which makes it one cell larger on every
            side. Published for dynamic resolution.
        padding_is_sink: cells that lie wholly in the padding are removed like sinks and are always
            background. Published for dynamic resolution, where labels are made on padded squares.
        response_rows: average the attention over only the first this many response tokens; ``None``
            (published) over all of them. For a model whose answers name the object first and
            describe it then, only the naming looks at it.
        question_template: what the backbone is asked while its generated response is labeled, with
            ``{question}`` for the record's question. A grounding instruction makes the response
            look at one place after the other. Labels keep the record's question, and a given
            response follows it as it is.
        drop_instruction: text cut out of the question first, such as the data set's instruction to
            be brief, which the template's would contradict.
        visual_tokens: encode images with at most this many visual tokens, while labeling and while
            training on the labels; ``None``: as many as the processor makes of them. For dynamic
            resolution alone, in the place of the processor's own maximum. ``min_peak`` and
            ``sink_threshold`` are shares of the attention that a single cell gets, so they belong
            to a number of cells. Published for dynamic resolution: 576.
        smoothing: before the foreground threshold, drop isolated peaks: keep only cells where the
            map after a 5x5 blur exceeds the mean of the two thresholds. Published, off by default.

    Raises:
        ConfigError: no grounding head, a negative layer or head, a number out of range.
    """

    grounding: HeadsByLayer
    sink: HeadsByLayer = field(default_factory=dict)
    sink_threshold: float = 1e-3
    foreground: float = 0.2
    background: float = 0.1
    max_box_fraction: float = 0.5
    min_peak: float = 0.0
    box_blur: bool = False
    padding_is_sink: bool = False
    smoothing: bool = False
    response_rows: int | None = None
    question_template: str = _QUESTION
    drop_instruction: str = ""
    visual_tokens: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "grounding", _heads_by_layer(self.grounding, "grounding"))
        object.__setattr__(self, "sink", _heads_by_layer(self.sink, "sink"))
        if not self.grounding:
            raise ConfigError("label recipe: grounding names no head to label by")
        if not 0 < self.background <= self.foreground < 1:
            raise ConfigError(
                "label recipe: needs 0 < background <= foreground < 1,"
                f" not background {self.background} and foreground {self.foreground}"
            )
        if not 0 < self.max_box_fraction <= 1:
            raise ConfigError(
                f"label recipe: max_box_fraction must lie in (0, 1], not {self.max_box_fraction}"
            )
        if not self.sink_threshold > 0:
            raise ConfigError(
                f"label recipe: sink_threshold must be positive, not {self.sink_threshold}"
            )
        for name in ("response_rows", "visual_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"label recipe: {name} must be 1 or more, or None, not {value}")
        if self.question_template.count(_QUESTION) != 1:
            raise ConfigError(
                f"label recipe: question_template must hold {_QUESTION} once, not "
                f"{self.question_template!r}"
            )
        if not self.min_peak >= 0:
            raise ConfigError(f"label recipe: min_peak must not be negative, not {self.min_peak}")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose attention is read, ascending."""
        return tuple(sorted({*self.grounding, *self.sink}))

    def labeling_question(self, question: str) -> str:
        """What the backbone is asked for its generated response to a record's question."""
        if self.drop_instruction:
            question = question.replace(self.drop_instruction, "").strip()
        return self.question_template.replace(_QUESTION, question)

    def check_fits(self, n_layers: int, n_heads: int) -> None:
        """Refuse a decoder that lacks a layer or head which the recipe reads.

        Args:
            n_layers: L.
            n_heads: attention heads per layer.

        Raises:
            ConfigError: names the first that does not exist, and what does.
        """
        for name, heads_by_layer in (("grounding", self.grounding), ("sink", self.sink)):
            for layer, heads in heads_by_layer.items():
                if layer >= n_layers:
                    raise ConfigError(
                        f"label recipe: {name} names layer {layer}, but the decoder has layers 0 "
                        f"to {n_layers - 1}"
                    )
                missing = [head for head in heads if heads != ALL_HEADS and int(head) >= n_heads]
                if missing:
                    raise ConfigError(
                        f"label recipe: {name} names head {missing[0]} of layer {layer}, but its "
                        f"heads are 0 to {n_heads - 1}"
                    )

    def with_options(self, options: Mapping[str, Any]) -> LabelRecipe:
        """The recipe with some fields replaced.

        Args:
            options: plain JSON values, by field.

        Raises:
            ConfigError: unknown fields, values of the wrong type or out of range.
        """
        return self.from_dict({**self.to_dict(), **options}) if options else self

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. Layers become strings, as JSON has it."""
        values = asdict(self)
        if self.visual_tokens is None:
            del values["visual_tokens"]  # as before there was one: older runs can be continued
        for name in ("grounding", "sink"):
            values[name] = {
                str(layer): heads if heads == ALL_HEADS else list(heads)
                for layer, heads in values[name].items()
            }
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LabelRecipe:
        """The recipe that ``to_dict`` wrote.

        Raises:
            ConfigError: unknown or missing fields, values of the wrong type or out of range.
        """
        return read_dataclass(cls, values, "label recipe")

    def to_json(self) -> str:
        """``to_dict`` as sorted, indented JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> LabelRecipe:
        """The recipe that ``to_json`` wrote.

        Raises:
            ConfigError: not a JSON object, or not a recipe.
        """
        return cls.from_dict(parse_json_object(text, "label recipe"))


def _heads_by_layer(value: Mapping[Any, str | Sequence[int]], name: str) -> HeadsByLayer:
    if not isinstance(value, Mapping):
        raise ConfigError(f"label recipe: {name} must map layers to heads, not {value!r}")
    result: HeadsByLayer = {}
    for layer, heads in value.items():
        index = _index(layer, f"{name} layer")
        if isinstance(heads, str):
            if heads != ALL_HEADS:
                raise ConfigError(
                    f"label recipe: {name} heads of layer {index} must be numbers or"
                    f" {ALL_HEADS!r}, not {heads!r}"
                )
            result[index] = ALL_HEADS
            continue
        numbers = tuple(_index(head, f"{name} head in layer {index}") for head in heads)
        if not numbers or len(set(numbers)) != len(numbers):
            raise ConfigError(
                f"label recipe: {name} heads of layer {index} must be distinct and at least one,"
                f" not {list(numbers)}"
            )
        result[index] = numbers
    return result


def _index(value: Any, what: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or (not isinstance(value, str) and number != value):
        raise ConfigError(f"label recipe: {what} must be a number from 0 up, not {value!r}")
    return number
