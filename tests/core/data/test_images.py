from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile

from sdrpn_core.data.images import open_image
from sdrpn_core.errors import ImageError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image)


def corners():
    """Four corners of four colors, three wide and two high: no rotation maps it onto itself."""
    array = np.zeros((2, 3, 3), dtype=np.uint8)
    array[0, 0], array[0, 2], array[1, 0], array[1, 2] = RED, BLUE, (0, 255, 0), (255, 255, 0)
    return array


# Where the first pixel of the upright image is stored, and whether rows are stored as columns.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_rotation(orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](corners())))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    opened = open_image(encoded(stored, exif=exif))
    np.testing.assert_array_equal(pixels(opened), corners())
    again = open_image(opened)
    np.testing.assert_array_equal(pixels(again), corners())
    # A Pillow image that was opened but not rotated is rotated too, and left as it was.
    given_image = Image.open(io.BytesIO(encoded(stored, exif=exif)))
    np.testing.assert_array_equal(pixels(open_image(given_image)), corners())
    assert given_image.size == stored.size
    assert given_image.getexif()[ExifTags.Base.Orientation] == orientation


def test_broken_exif_says_nothing_about_rotation():
    data = encoded(Image.fromarray(corners()), exif=b"Exif\x00\x00garbage!")
    np.testing.assert_array_equal(pixels(open_image(data)), corners())


def test_gray_and_one_bit():
    np.testing.assert_array_equal(
        pixels(open_image(encoded(Image.new("L", (2, 1), 77)))), np.full((1, 2, 3), 77)
    )
    checks = Image.fromarray(np.array([[True, False]]))
    assert checks.mode == "1"
    np.testing.assert_array_equal(
        pixels(open_image(encoded(checks)))[0], [(255, 255, 255), (0, 0, 0)]
    )


def test_transparency_is_laid_on_white():
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)])
    expected = [RED, (255, 255, 255), (204, 204, 204)]
    np.testing.assert_array_equal(pixels(open_image(encoded(rgba)))[0], expected)
    gray = Image.new("LA", (2, 1))
    gray.putdata([(10, 255), (10, 0)])
    np.testing.assert_array_equal(
        pixels(open_image(encoded(gray)))[0], [(10, 10, 10), (255, 255, 255)]
    )


def test_palette_with_and_without_transparency():
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putdata([0, 1])
    np.testing.assert_array_equal(pixels(open_image(encoded(palette)))[0], [RED, BLUE])
    transparent = encoded(palette, transparency=0)
    np.testing.assert_array_equal(pixels(open_image(transparent))[0], [(255, 255, 255), BLUE])
    gif = encoded(palette, "GIF", transparency=1)
    np.testing.assert_array_equal(pixels(open_image(gif))[0], [RED, (255, 255, 255)])


def test_transparent_color_of_an_rgb_image():
    data = encoded(Image.fromarray(corners()), transparency=RED)
    opened = pixels(open_image(data))
    assert opened[0, 0].tolist() == [255, 255, 255]
    assert opened[0, 2].tolist() == list(BLUE)


def test_cmyk():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = pixels(open_image(encoded(cmyk, "JPEG", quality=100)))
    assert np.abs(red.astype(int) - RED).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind):
    values = np.array([[0, 128, 257, 32768, 65407, 65535]], dtype=np.uint16)
    opened = pixels(open_image(encoded(Image.fromarray(values), kind)))
    assert opened[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255]
    assert (opened == opened[..., :1]).all()


def test_integer_gray_of_a_pillow_image():
    values = Image.fromarray(np.array([[0, 65535]], dtype=np.int32))
    assert pixels(open_image(values))[0, :, 0].tolist() == [0, 255]
    with pytest.raises(ImageError, match=r"outside 0\.\.65535"):
        open_image(Image.fromarray(np.array([[0, 65536]], dtype=np.int32)))
    with pytest.raises(ImageError, match="float image"):
        open_image(Image.fromarray(np.array([[0.5]], dtype=np.float32)))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (8000, 50), (50, 8000)])
def test_sizes(size):
    assert open_image(encoded(Image.new("RGB", size, RED))).size == size


@given(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"]), st.data())
def test_any_mode_and_size_becomes_rgb(mode, data):
    size = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 200))
    opened = open_image(Image.new(mode, size))
    assert (opened.mode, opened.size, opened.info) == ("RGB", size, {})


def test_paths(tmp_path):
    path = tmp_path / "an image.png"
    path.write_bytes(encoded(Image.fromarray(corners())))
    np.testing.assert_array_equal(pixels(open_image(path)), corners())
    np.testing.assert_array_equal(pixels(open_image(str(path))), corners())


def truncated():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return {kind: encoded(Image.fromarray(noise), kind)[:-2000] for kind in ("PNG", "JPEG", "BMP")}


def png_chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bomb(width, height):
    """A PNG of a few bytes whose header promises `width` x `height` pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (
        png_chunk(b"IHDR", header),
        png_chunk(b"IDAT", zlib.compress(b"\0")),
        png_chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


BAD = {
    "zero bytes": (b"", "zero bytes"),
    "text": (b"this is not an image", "not an image"),
    "header only": (b"\x89PNG\r\n\x1a\n", "not an image"),
    "bomb over our limit": (bomb(10_000, 10_000), "over the limit of 89478485 pixels"),
    "bomb over Pillow's limit": (bomb(60_000, 60_000), "too large for Pillow"),
    "no pixel data": (bomb(64, 64), "broken image"),
    **{f"truncated {kind}": (data, "broken image") for kind, data in truncated().items()},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_one_line_errors(name, tmp_path):
    data, message = BAD[name]
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    for source, label in ((data, "<bytes>"), (path, str(path))):
        with pytest.raises(ImageError, match=message) as caught:
            open_image(source)
        assert str(caught.value).startswith(f"{label}: ")
        assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.png: no such file"):
        open_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="cannot be read"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match="null"):
        open_image("a\0b.png")
    with pytest.raises(ImageError, match="path, bytes or Pillow image, not int"):
        open_image(3)
    with pytest.raises(ImageError, match="no pixels"):
        open_image(Image.new("RGB", (0, 4)))


def test_own_limit():
    data = encoded(Image.new("RGB", (10, 10)))
    assert open_image(data, max_pixels=100).size == (10, 10)
    with pytest.raises(ImageError, match="10x10 is over the limit of 99 pixels"):
        open_image(data, max_pixels=99)


def test_pillow_settings_are_left_alone():
    """Neither limit, tolerance for truncated files nor warning filters change, in any thread."""

    def settings():
        return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)

    def fail():
        for _ in range(20):
            with pytest.raises(ImageError):
                open_image(bomb(10_000, 10_000))

    before = settings()

    threads = [threading.Thread(target=fail) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settings() == before
