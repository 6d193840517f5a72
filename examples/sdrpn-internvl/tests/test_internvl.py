"""The adapter keeps sdrpn's contract, and its prompt is the stock processor's."""

import pytest
from PIL import Image
from sdrpn_core.testing import BackboneContract
from tiny_internvl import tiny_internvl


class TestInternVL(BackboneContract):
    """Everything that sdrpn relies on."""

    make = staticmethod(tiny_internvl)


@pytest.mark.parametrize("n_images", [0, 1, 2])
def test_the_prompt_is_the_stock_processors(n_images):
    """Tokens around images are added by the processor, not by the chat template."""
    backbone = tiny_internvl()
    content = [{"type": "image", "image": Image.new("RGB", (90, 60))}] * n_images
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": "what is it ?"}]}]
    expected = backbone.processor.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"crop_to_patches": False},
    )["input_ids"][0]
    found = []
    for token in backbone.tokenize("what is it ?", n_images):
        copies = backbone.processor.image_seq_length if token == backbone.image_token_id else 1
        found.extend([token] * copies)
    assert found == expected
