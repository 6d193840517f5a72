"""The prompt: which adapter encodes it, and where each token stands."""

from __future__ import annotations

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.loading import find_adapter
from sdrpn_core.backbone.prompt import TextSegment
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import SdrpnError
from sdrpn_core.testing.checks import check
from sdrpn_core.testing.encoding import PREPROCESSING, encoded
from sdrpn_core.testing.images import block_image
from sdrpn_core.testing.subject import ContractSubject


class LayoutChecks(ContractSubject):
    """The right adapter, a frozen model, one visual token per cell, the texts in their places."""

    def test_model_types_lead_to_the_adapter(self, backbone: Backbone) -> None:
        """Loading finds the adapter by ``config.model_type``."""
        own = backbone.model.config.model_type
        check(
            own in backbone.model_types,
            f"model_types: {backbone.model_types} lacks the model's own type {own!r}",
        )
        for model_type in backbone.model_types:
            try:
                found = find_adapter(model_type)
            except SdrpnError as error:
                raise AssertionError(
                    f"sdrpn_register_backbones: {model_type!r} does not lead to the adapter: "
                    f"register it with model_types, and its plugin as an entry point ({error})"
                ) from error
            check(
                found is type(backbone),
                f"sdrpn_register_backbones: {model_type!r} leads to {found.__name__}, not to "
                f"{type(backbone).__name__}",
            )

    def test_the_model_is_frozen(self, backbone: Backbone) -> None:
        """Nothing but an RPN is ever trained."""
        check(
            not backbone.model.training,
            "__init__: the model is in training mode: leave it as Backbone.__init__ sets it",
        )
        free = [name for name, p in backbone.model.named_parameters() if p.requires_grad]
        check(not free, f"__init__: {len(free)} parameters require gradients, such as {free[:1]}")

    def test_an_image_has_one_token_per_cell(
        self, backbone: Backbone, size: tuple[int, int]
    ) -> None:
        """Whole images and crops: ``(h * w, hidden)`` finite features in the decoder's dtype."""
        for method in PREPROCESSING:
            ((item, features),) = encoded(backbone, method, [block_image(0, size)])
            check(
                item.geometry.source_size == size,
                f"{method}: the geometry's source_size is {item.geometry.source_size} for an "
                f"image of {size}: it is (width, height)",
            )
            check(
                features.dtype == backbone.embedding.weight.dtype,
                f"image_features: features are {features.dtype}, the decoder's embeddings "
                f"{backbone.embedding.weight.dtype}",
            )

    def test_prompts_hold_their_images_in_order(self, backbone: Backbone) -> None:
        """Images of a batch come back in their own prompt, in order."""
        questions = self.questions()
        for question, prompt in zip(questions, backbone.encode(questions), strict=True):
            expected = [image.size for image in question.images]
            found = [geometry.source_size for geometry in prompt.geometries]
            check(
                found == expected,
                f"chat_text: a question about images of {expected} became a prompt with images "
                f"of {found}",
            )
            shape = tuple(backbone.embed(prompt).shape)
            check(
                shape == (len(prompt), backbone.token_width),
                f"embed: {shape} for a prompt of {len(prompt)} tokens of width "
                f"{backbone.token_width}",
            )

    def test_the_prompt_ends_where_the_response_begins(self, backbone: Backbone) -> None:
        """The last token, the RPN's query, belongs to the template, not to the question."""
        n_images = 0 if self.supports_text_only else 1
        ends = {backbone.tokenize(text, n_images)[-1] for text in ("is it red", "is it blue")}
        check(
            len(ends) == 1,
            "chat_text: the prompt ends with the question's last word: it must end with what "
            "announces the response (add_generation_prompt=True)",
        )

    def test_a_response_follows_its_prompt(self, backbone: Backbone) -> None:
        """Teacher forcing appends the response's tokens to the prompt, and nothing else."""
        images = (block_image(0, self.sizes[0]),)
        response = backbone.tokenize_response("the red circle")
        check(bool(response), "tokenize_response: 'the red circle' has no token")
        bare, longer = backbone.encode(
            [Question("what is it ?", images), Question("what is it ?", images, response)]
        )
        last = longer.segments[-1]
        check(
            longer.response_length == len(longer) - len(bare) == len(response)
            and isinstance(last, TextSegment)
            and last.ids[-len(response) :] == response,
            f"encode: a prompt of {len(bare)} tokens with a response of {len(response)} has "
            f"{len(longer)} tokens, of which {longer.response_length} count as the response",
        )
        check(
            longer.query_index == bare.query_index == len(bare) - 1,
            f"encode: the query is token {longer.query_index} with a response and "
            f"{bare.query_index} without, expected the last of the prompt, {len(bare) - 1}",
        )

    def test_a_question_cannot_smuggle_an_image_in(self, backbone: Backbone) -> None:
        """The image placeholder is one token, and in a question it is text."""
        placeholder = backbone.tokenizer.convert_ids_to_tokens(backbone.image_token_id)
        found = backbone.tokenize(f"what is {placeholder} ?", 1).count(backbone.image_token_id)
        check(
            found == 1,
            f"tokenize: a question about one image that spells the placeholder {placeholder!r} "
            f"became a prompt with {found} images: special tokens in a question are text",
        )
