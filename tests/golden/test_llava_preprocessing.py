"""LLaVA: from the image to projected features, against the published numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sdrpn_core import open_image
from tests.golden.llava import block_means

PIXELS = 1e-6
MEANS = 1e-5
FEATURES = 1e-4


@pytest.fixture
def preprocessed(golden_file, llava):
    """The published numbers' image, preprocessed: ``(channels, side, side)`` and geometry."""
    image = open_image(str(golden_file).replace("_pixels.npz", ".png"))
    inputs = llava.preprocess(image)
    return image, inputs


def gray_levels(llava, pixels):
    """The image that was normalized, undone to whole gray levels."""
    processor = llava.processor.image_processor
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (processor.image_mean, processor.image_std)
    )
    levels = (pixels * std + mean) * 255
    assert (levels - levels.round()).abs().max() < 1e-3  # nothing but whole levels went in
    return levels.round().permute(1, 2, 0).numpy().astype(np.uint8)


@pytest.mark.golden_files("llava/images/*_pixels.npz")
def test_the_padded_image_is_the_published_one(golden_file, load, llava, preprocessed):
    image, inputs = preprocessed
    data = load(golden_file)
    assert image.size == tuple(data["size_wh"])
    assert inputs.geometry.source_size == image.size
    with Image.open(str(golden_file).replace("_pixels.npz", "_pad336.png")) as published:
        expected = np.asarray(published)
    (pixels,) = inputs.tensors["pixel_values"]
    np.testing.assert_array_equal(gray_levels(llava, pixels), expected)


@pytest.mark.golden_files("llava/images/*_pixels.npz")
def test_pixel_values(golden_file, load, llava, preprocessed):
    _, inputs = preprocessed
    data = load(golden_file)
    (pixels,) = inputs.tensors["pixel_values"]
    rows = pixels[:, data["rows_idx"]].numpy()
    np.testing.assert_allclose(rows, data["rows"], atol=PIXELS, rtol=0)
    patch = llava.model.config.vision_config.patch_size
    means = block_means(pixels, patch)
    np.testing.assert_allclose(means, data["block_mean"], atol=MEANS, rtol=0)
    for ours, name in (
        (pixels.mean(dim=(1, 2)), "mean"),
        (pixels.std(dim=(1, 2), correction=0), "std"),
        (pixels.double().abs().sum(), "abs_sum"),
    ):
        np.testing.assert_allclose(ours.numpy(), data[name], rtol=MEANS, atol=1e-7, err_msg=name)


@pytest.mark.golden_files("llava/images/*_pixels.npz")
def test_features_of_the_encoder_and_of_the_projector(golden_file, load, llava, preprocessed):
    _, inputs = preprocessed
    data = load(golden_file)
    places = data["clip_feat_idx"]
    config = llava.model.config
    with torch.no_grad():
        tower = llava.model.get_submodule("model.vision_tower")
        states = tower(inputs.tensors["pixel_values"], output_hidden_states=True).hidden_states
        (projected,) = llava.image_features([inputs])
    encoded = states[config.vision_feature_layer][0, 1:]  # without the class token
    np.testing.assert_allclose(encoded[places].numpy(), data["clip_feat"], atol=FEATURES, rtol=0)
    np.testing.assert_allclose(projected[places].numpy(), data["proj_feat"], atol=FEATURES, rtol=0)
    assert projected.shape[0] == np.prod(inputs.geometry.grid)
