"""The backbone: a stock multimodal LLM, and the few facts about its family that the core needs.

A family's adapter subclasses :class:`Backbone`. Only :meth:`Backbone.preprocess` has to be written;
everything else has a default that fits models built as vision encoder + projector + causal decoder,
and is overridden where the family differs (prompt, positions, framing of crops).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional as F

from sdrpn_core.backbone.adapter_parts import checked_features, checked_input
from sdrpn_core.backbone.decoder import FULL_ATTENTION, decoder_layers, layer_kinds
from sdrpn_core.backbone.preset import Preset
from sdrpn_core.backbone.prompt import ImageSegment, Prompt, Segment, prompt_of_ids
from sdrpn_core.backbone.question import ImageInput, Question, checked_questions
from sdrpn_core.backbone.text_ids import TextIds
from sdrpn_core.data.text import check_question, check_text
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.plugins.manager import get_plugins

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn
    from transformers import PreTrainedModel
    from typing_extensions import Self


class Backbone(ABC):
    """A loaded model and its family's conventions.

    Args:
        model: a stock ``*ForConditionalGeneration`` model.
        processor: its processor: ``tokenizer`` and ``image_processor`` are read, and
            ``apply_chat_template`` by the default prompt.
        name: path or hub id, for provenance.
        revision: hub revision, for provenance.
    """

    #: ``config.model_type`` values that the adapter serves.
    model_types: ClassVar[tuple[str, ...]] = ()
    #: Whether images take as many visual tokens as their size asks for, within a budget. If so,
    #: :meth:`with_visual_tokens` and :meth:`preprocess_native_crop` are written.
    dynamic_resolution: ClassVar[bool] = False
    #: Whether the family was trained to read tiles of an image in addition to the whole.
    trained_on_tiles: ClassVar[bool] = False

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        *,
        name: str | None = None,
        revision: str | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.name = name or str(getattr(model.config, "_name_or_path", "") or "unnamed")
        self.revision = revision
        if self.token_width != self.hidden_size:
            self.decoder.register_forward_pre_hook(self._take_apart, with_kwargs=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    # -- what a family may change ---------------------------------------------------------------

    @abstractmethod
    def preprocess(self, image: Image.Image) -> ImageInput:
        """Turn an upright RGB image into the vision encoder's input and its geometry.

        Images are also prepared ahead, in threads and processes without the model's weights: of
        ``self.model``, only ``config``, ``dtype`` and ``device`` may be read, as
        :meth:`to_model` does.

        Raises:
            ImageError: the family cannot encode an image of this size or shape. Of a crop, the
                core then says that it is ``too_small``, and the answer is the plain one.
        """

    def preprocess_crop(self, image: Image.Image) -> ImageInput:
        """The same for a crop; the geometry's source is then the crop itself."""
        return self.preprocess(image)

    def with_visual_tokens(self, limit: int) -> Self:
        """The same model, with images and crops of at most so many visual tokens each.

        The weights are shared. Smaller images are not enlarged to fill the budget.

        Raises:
            ConfigError: the family's resolution is fixed.
        """
        raise self._fixed_resolution(f"a budget of {limit}")

    def looking_with(self, n_tokens: int | None) -> Self:
        """:meth:`with_visual_tokens`, or this model where no number of visual tokens is set.

        Raises:
            ConfigError: one is set, and the family's resolution is fixed.
        """
        return self if n_tokens is None else self.with_visual_tokens(n_tokens)

    def preprocess_native_crop(self, image: Image.Image, limit: int) -> ImageInput:
        """The encoder's input for a crop at its own resolution: no larger than its pixels ask for.

        :func:`~sdrpn_core.grid.native.native_grid` chooses the grid.

        Args:
            image: the crop; the geometry's source is the crop itself.
            limit: largest number of visual tokens; the family's own minimum comes before it, and
                its processor's maximum holds as well.

        Raises:
            ConfigError: the family's resolution is fixed, or its adapter does not offer this.
            ImageError: as :meth:`preprocess_crop`.
        """
        if self.dynamic_resolution:
            raise ConfigError(f"{self.name}: the family's adapter does not offer crop budgets")
        raise self._fixed_resolution(f"a crop budget of {limit}")

    def pixel_plane(self, pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """One image's ``pixel_values``, or gradients by them, as ``(channels, height, width)``.

        Methods that follow gradients to the pixels need it. A family whose processor cuts images
        into patches overrides it, or goes without these methods.

        Args:
            pixels: as in ``ImageInput.tensors`` (default: ``(1, channels, height, width)``, or
                with more dimensions of length 1 in front).
            grid: of the image's visual tokens.

        Raises:
            ConfigError: the tensor has another shape, and the adapter does not say which.
        """
        if pixels.ndim < 3 or any(length != 1 for length in pixels.shape[:-3]):
            raise ConfigError(
                f"{self.name}: its pixel_values of shape {tuple(pixels.shape)} are no plane of "
                "pixels, and the family's adapter does not offer pixel_plane"
            )
        return pixels.reshape(pixels.shape[-3:])

    def chat_text(self, question: str, n_images: int) -> str:
        """The prompt up to where the response begins, one image placeholder per image."""
        content = [{"type": "image"}] * n_images + [{"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        return str(
            self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        )

    def collate(self, inputs: Sequence[ImageInput]) -> dict[str, torch.Tensor]:
        """The encoder's input for several images: tensors side by side along dimension 0."""
        return {key: torch.cat([item.tensors[key] for item in inputs]) for key in inputs[0].tensors}

    def image_features(self, inputs: Sequence[ImageInput]) -> list[torch.Tensor]:
        """Encode images: per image ``(h * w, token_width)`` projected features, row-major."""
        features = self.model.base_model.get_image_features(**self.collate(inputs)).pooler_output
        return [item.to(self.embedding.weight.dtype) for item in features]

    def frame_crop(self, crop: ImageSegment) -> tuple[Segment, ...]:
        """The segments that present a crop's tokens to the decoder (default: the bare tokens).

        They stand right behind the image's tokens, or behind the crop before: ``crop.rank`` says
        which of how many crops it is.
        """
        return (crop,)

    def image_ids(self, segment: ImageSegment) -> list[int]:
        """Ids of an image's tokens as the stock model gets them: a placeholder for each."""
        return [self.image_token_id] * len(segment)

    def positions(self, prompt: Prompt) -> torch.Tensor:
        """Position ids: ``(length,)``, or ``(axes, length)`` for multimodal rotary embeddings."""
        return torch.arange(len(prompt))

    @property
    def token_width(self) -> int:
        """Width of a token's row: its embedding, and what else the decoder must know of it.

        Behind its first ``hidden_size`` channels, a row of ``image_features`` holds what
        :meth:`decoder_inputs` makes arguments of the decoder from: features that are added in
        later layers, or whether a token takes part in attention among an image's tokens. Rows of
        text hold zeros there. Rows travel with their tokens through padding, pruning and caches.
        """
        return self.hidden_size

    @property
    def masks_need_rows(self) -> bool:
        """Whether :meth:`decoder_inputs` makes the attention mask, so that it needs whole rows."""
        return False

    def decoder_inputs(self, rows: torch.Tensor, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the decoder that follow from rows wider than its embeddings.

        Only called where :attr:`token_width` says that there are such rows.

        Args:
            rows: ``(batch, length, token_width)``.
            inputs: the other arguments of the call: ``attention_mask`` ``(batch, columns)``, the
                cached ones first, ``position_ids``, the cache.

        Returns:
            What replaces ``inputs_embeds``, or is given beside it.
        """
        return {"inputs_embeds": rows[..., : self.hidden_size]}

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder that stands for one image in the tokenized prompt."""
        return int(self.model.config.image_token_id)

    @property
    def n_injections(self) -> int:
        """Behind how many of its first layers the decoder adds visual features to hidden states."""
        return 0

    # -- what the core builds on it -------------------------------------------------------------

    @cached_property
    def preset(self) -> Preset:
        """The preset whose fields match this model's config.

        Raises:
            ConfigError: none does, or several do, or it names layers or heads that do not exist.
        """
        found = self.find_preset()
        if found is None:
            raise ConfigError(
                f"{self.name}: no preset matches its config (model_type "
                f"{self.model.config.model_type!r}, {self.n_layers} layers of width "
                f"{self.hidden_size}); pass a recipe (`sdrpn heads` finds one), or register a "
                "preset for it"
            )
        return found

    def find_preset(self) -> Preset | None:
        """As :attr:`preset`, but ``None`` if there is none.

        Raises:
            ConfigError: several match, or the one names layers or heads that do not exist.
        """
        presets = get_plugins().presets
        model_type = self.model.config.model_type
        named = [  # no other is imported: a broken one concerns only its own models
            entry.name
            for entry in presets.entries()
            if model_type in entry.metadata.get("model_types", (model_type,))
        ]
        found = [p for p in map(presets.get, named) if p.matches(self.model.config)]
        if len(found) > 1:
            names = ", ".join(preset.name for preset in found)
            raise ConfigError(
                f"{self.name}: several presets match its config: {names}; disable the plugins of "
                "all but one (SDRPN_PLUGINS), or have their `match` tell models apart"
            )
        for preset in found:
            preset.check_fits(self.n_layers, self.n_heads)
        return found[0] if found else None

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def decoder(self) -> PreTrainedModel:
        """The causal language model without its head."""
        return self.model.get_decoder()

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers."""
        return decoder_layers(self.decoder)

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding."""
        return self.model.get_input_embeddings()

    @property
    def device(self) -> torch.device:
        """Where token embeddings live, and so where inputs go."""
        return self.embedding.weight.device

    @property
    def text_config(self) -> Any:
        """The decoder's configuration."""
        return self.model.config.get_text_config()

    @property
    def has_windows(self) -> bool:
        """Whether layers attend within windows, which count the columns of a batch.

        Padding between two blocks of a row would count as tokens.
        """
        return set(layer_kinds(self.decoder)) != {FULL_ATTENTION}

    @property
    def n_layers(self) -> int:
        """L, the number of decoder layers."""
        return int(self.text_config.num_hidden_layers)

    @property
    def n_heads(self) -> int:
        """Attention heads (of queries) per decoder layer."""
        return int(self.text_config.num_attention_heads)

    @property
    def hidden_size(self) -> int:
        """Width of the decoder."""
        return int(self.text_config.hidden_size)

    def tokenize(self, question: str, n_images: int, *, special_tokens: bool = False) -> list[int]:
        """Prompt ids with one placeholder per image.

        Args:
            question: what is asked.
            n_images: how many images the prompt shows.
            special_tokens: whether special tokens that the question spells are meant as such; else
                they are text.

        Raises:
            InputError: the question is empty, not valid Unicode, or holds (or is turned by the chat
                template into) image placeholders that are meant as such.
            ConfigError: the chat template puts too few placeholders.
        """
        check_question(question)
        ids = self._text_ids.of_question(
            question, lambda text: self.chat_text(text, n_images), special_tokens=special_tokens
        )
        found = ids.count(self.image_token_id)
        if found != n_images:
            placeholder = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
            counts = f"the prompt holds {found} image placeholders for {n_images} images"
            if found < n_images:
                # A question can add placeholders, not take them away.
                raise ConfigError(
                    f"{self.name}: {counts}: chat_text (or the processor's chat template) must "
                    f"put one {placeholder!r} for each"
                )
            raise InputError(f"{counts}: the question must not contain {placeholder!r}")
        return ids

    def tokenize_response(self, response: str, *, special_tokens: bool = False) -> tuple[int, ...]:
        """Token ids of a given response, as they follow the prompt; without the end token.

        Args:
            response: the text.
            special_tokens: whether special tokens that it spells are meant as such; else they are
                text.

        Raises:
            InputError: the response is not valid Unicode, or holds the image placeholder.
        """
        check_text(response, "the response")
        ids = tuple(self._text_ids.of_response(response, special_tokens=special_tokens))
        if self.image_token_id in ids:
            raise InputError(
                "the response must not contain "
                f"{self.tokenizer.convert_ids_to_tokens(self.image_token_id)!r}"
            )
        return ids

    def encode(self, questions: Sequence[Question]) -> list[Prompt]:
        """Prompts of several questions; all their images go through the encoder together.

        Raises:
            InputError: no list of questions, or an entry that is no :class:`Question`; or see
                :meth:`tokenize`.
            ConfigError: see :meth:`encode_ids`.
        """
        questions = list(checked_questions(questions))
        ids = [
            self.tokenize(q.text, q.n_images, special_tokens=q.special_tokens) for q in questions
        ]
        return self.encode_ids(ids, questions)

    @torch.no_grad()
    def encode_ids(
        self, ids: Sequence[Sequence[int]], questions: Sequence[Question]
    ) -> list[Prompt]:
        """As :meth:`encode`, for tokenized prompts, which hold one placeholder per image.

        Raises:
            InputError: a prompt and its response hold more or fewer placeholders than images.
            ConfigError: see :meth:`encode_images`.
        """
        for row, question in zip(ids, questions, strict=True):
            found = [*row, *question.response_ids].count(self.image_token_id)
            if found != question.n_images:
                raise InputError(
                    f"the prompt holds {found} image placeholders for {question.n_images} "
                    "images (a response must hold none)"
                )
        inputs = [item for question in questions for item in self.image_inputs(question)]
        segments = iter(
            [
                ImageSegment(features, item.geometry.grid, item.geometry)
                for features, item in zip(self.encode_images(inputs), inputs, strict=True)
            ]
        )
        return [
            prompt_of_ids(row, question.response_ids, segments, self.image_token_id)
            for row, question in zip(ids, questions, strict=True)
        ]

    def encode_images(self, inputs: Sequence[ImageInput]) -> list[torch.Tensor]:
        """As :meth:`image_features`, for any number of images, one tensor row per cell of each.

        Raises:
            ConfigError: the adapter gives another number of images, of tokens or of channels.
        """
        if not inputs:
            return []
        return checked_features(self.image_features(inputs), inputs, self.token_width, self.name)

    def embed(self, prompt: Prompt) -> torch.Tensor:
        """Rows ``(length, token_width)`` of a prompt."""
        beside = self.token_width - self.hidden_size
        rows = []
        for segment in prompt.segments:
            if isinstance(segment, ImageSegment):
                rows.append(segment.features.to(self.device))
            else:
                embeds = self.embedding(torch.tensor(segment.ids, device=self.device))
                rows.append(F.pad(embeds, (0, beside)))
        return torch.cat(rows)

    def token_ids(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt as the stock model gets them."""
        ids: list[int] = []
        for segment in prompt.segments:
            if isinstance(segment, ImageSegment):
                ids.extend(self.image_ids(segment))
            else:
                ids.extend(segment.ids)
        return ids

    def to_model(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor on the model's device, floating point ones in the model's dtype."""
        dtype = self.model.dtype if tensor.is_floating_point() else None
        return tensor.to(self.model.device, dtype)

    def image_inputs(self, question: Question) -> list[ImageInput]:
        """What the vision encoder gets of a question's images, on the model's device.

        Raises:
            ConfigError: a first look is asked for, and the family's resolution is fixed; or the
                adapter makes anything but an ``ImageInput`` of an image.
            ImageError: the family cannot encode an image of this size or shape.
        """
        if question.inputs:
            return [
                replace(item, tensors={k: self.to_model(part) for k, part in item.tensors.items()})
                for item in question.inputs
            ]
        looking = self.looking_with(question.first_look_tokens)
        return [
            checked_input(looking.preprocess(image), "preprocess", self.name)
            for image in question.images
        ]

    def check_dynamic_resolution(self, option: str, n_tokens: int | None) -> None:
        """Refuse an option that only families of dynamic resolution can have.

        Args:
            option: its name.
            n_tokens: its value; ``None`` if it is not set.

        Raises:
            ConfigError: it is set, and the family's resolution is fixed.
        """
        if n_tokens is not None and not self.dynamic_resolution:
            raise self._fixed_resolution(f"{option}={n_tokens}")

    def fitting_branch(self, branch: int, n_layers: int) -> int:
        """The first B from ``branch`` on at which copied layers can run as the decoder's do.

        Copies see no features that the decoder adds between layers, so the last injection lies
        before B. Layers of another kind of attention have a mask and rotary embeddings of their
        own: a kind that the copies have must occur up to B.

        Args:
            branch: B.
            n_layers: R.
        """
        kinds = layer_kinds(self.decoder)
        for found in range(max(branch, self.n_injections), len(kinds)):
            if set(kinds[found : found + n_layers]) <= set(kinds[: found + 1]):
                return found
        return branch

    def check_branch(self, branch: int, n_layers: int) -> None:
        """Refuse an RPN whose layers could not run as the decoder's do.

        Raises:
            ConfigError: says why, and where to branch off.
        """
        found = self.fitting_branch(branch, n_layers)
        if found == branch:
            return
        if branch < self.n_injections:
            why = (
                f"visual features are added behind the first {self.n_injections} decoder layers, "
                "and copies of these would miss them"
            )
        else:
            why = "a layer of the RPN has a kind of attention that no layer up to there has"
        raise ConfigError(
            f"{self.name}: an RPN with {n_layers} layers cannot branch off at layer {branch}: "
            f"{why}; branch off at layer {found}"
        )

    def check_whole(self, purpose: str) -> None:
        """Refuse what a backbone that was loaded in part, or truncated, cannot do.

        Args:
            purpose: what it is needed for, e.g. ``"answering"``.

        Raises:
            ConfigError: says how many of the decoder layers are loaded.
        """
        there = [layer for layer in self.layers if next(layer.parameters(), None) is not None]
        if len(there) < self.n_layers:
            raise ConfigError(
                f"{purpose} needs all {self.n_layers} decoder layers of {self.name}, but only "
                f"{len(there)} are loaded: load the whole model"
            )

    def check_context(self, length: int) -> None:
        """Refuse sequences longer than the decoder's context.

        Raises:
            InputError: says both lengths.
        """
        limit = getattr(self.text_config, "max_position_embeddings", None)
        if limit is not None and length > limit:
            raise InputError(
                f"a sequence of {length} tokens (response included) exceeds the context of {limit} "
                f"tokens of {self.name}: use smaller or fewer images, a shorter question, "
                "or fewer new tokens"
            )

    @cached_property
    def _text_ids(self) -> TextIds:
        return TextIds(self.tokenizer, self.image_token_id)

    def _take_apart(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        rows = kwargs.get("inputs_embeds")
        if rows is None or rows.shape[-1] != self.token_width:
            return None
        return args, {**kwargs, **self.decoder_inputs(rows, kwargs)}

    def _fixed_resolution(self, asked: str) -> ConfigError:
        return ConfigError(
            f"{self.name}: the family's resolution is fixed, so every image takes the same number "
            f"of visual tokens, and {asked} cannot be set"
        )
