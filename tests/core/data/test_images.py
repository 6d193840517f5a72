from __future__ import annotations

import io
import os
import struct
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile, features

from sdrpn_core.data.images import open_image
from sdrpn_core.data.limits import MAX_PIXELS
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


def test_integer_gray_of_eight_bits_is_refused_where_it_would_turn_black(tmp_path):
    """Mode I says nothing of its range, and 200 of 65535 is black."""
    gray = Image.new("L", (3, 2), 200)
    path = tmp_path / "gray.tif"
    gray.convert("I").save(path)
    for source in (gray.convert("I"), path, path.read_bytes()):
        with pytest.raises(
            ImageError, match=r"range of its integers is unknown .* to L or RGB first"
        ) as caught:
            open_image(source)
        assert "\n" not in str(caught.value)
    assert pixels(open_image(gray.convert("I").convert("L"))).max() == 200


def test_integer_gray_whose_range_is_known_is_read():
    black = open_image(Image.new("I", (2, 1)))
    assert pixels(black).max() == 0
    assert pixels(open_image(Image.new("I", (2, 1), 256))).max() == 1
    dark = b"P5 2 1 65535\n" + np.array([0, 200], ">u2").tobytes()
    for source in (dark, Image.open(io.BytesIO(dark))):
        assert pixels(open_image(source)).max() == 1
    bright = b"P5 2 1 4095\n" + np.array([0, 4095], ">u2").tobytes()
    assert pixels(open_image(bright))[0, :, 0].tolist() == [0, 255]
    sixteen = Image.fromarray(np.array([[0, 200]], dtype=np.uint16))
    assert pixels(open_image(sixteen)).max() == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (8000, 50), (50, 8000)])
def test_an_image_keeps_its_size(size):
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
    "bomb over Pillow's limit": (bomb(60_000, 60_000), "60000x60000 is over the limit"),
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
    for array in (np.zeros((4, 4, 3), np.uint8), torch.zeros(3, 4, 4)):
        with pytest.raises(ImageError, match=r"not (ndarray|Tensor): use Image\.fromarray$"):
            open_image(array)
    with pytest.raises(ImageError, match="no pixels"):
        open_image(Image.new("RGB", (0, 4)))


def test_own_limit():
    data = encoded(Image.new("RGB", (10, 10)))
    assert open_image(data, max_pixels=100).size == (10, 10)
    with pytest.raises(ImageError, match="10x10 is over the limit of 99 pixels"):
        open_image(data, max_pixels=99)


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 4 3
%%EndComments
0 0 4 3 rectfill showpage
%%EOF
"""


@pytest.mark.parametrize("name", ["x.png", "x.eps"])
def test_no_image_starts_a_program(name, tmp_path, monkeypatch):
    """Pillow knows EPS by its first bytes and gives it to Ghostscript, whatever the file's name."""
    monkeypatch.setattr("subprocess.Popen", lambda *args, **options: pytest.fail("a program ran"))
    path = tmp_path / name
    path.write_bytes(EPS)
    with Image.open(path) as image:
        assert image.format == "EPS"
    with pytest.raises(ImageError, match=r"not an image in a supported format \(PNG, JPEG, "):
        open_image(path)


@pytest.mark.parametrize("kind", ["PCX", "SGI", "TGA", "ICNS", "XBM", "DDS"])
def test_formats_that_are_not_on_the_list_are_refused(kind):
    image = Image.new("1" if kind == "XBM" else "RGB", (16, 16))
    with pytest.raises(ImageError, match="not an image in a supported format"):
        open_image(encoded(image, kind))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"])
def test_formats_on_the_list_give_the_pixels_that_pillow_gives(kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = encoded(Image.fromarray(corners()), kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(pixels(open_image(data)), expected)


def test_the_two_images_of_a_stereo_jpeg_are_one():
    first, second = (Image.new("RGB", (8, 8), color) for color in (RED, BLUE))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert open_image(data).getpixel((4, 4))[0] > 200


def iso_file(*brands):
    body = brands[0] + bytes(4) + b"".join(brands)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + b"\0" * 64


@pytest.mark.parametrize("brands", [(b"heic", b"mif1"), (b"mif1", b"heic", b"MiHE")])
def test_heic_names_the_extra_that_adds_it(brands, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(ImageError, match=r"pip install 'sdrpn\[heif\]'"):
        open_image(iso_file(*brands))


def test_heic_is_read_with_the_extra():
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), RED)).save(buffer, quality=-1, chroma=444)
    opened = open_image(buffer.getvalue())
    assert opened.size == (64, 48)
    assert np.abs(pixels(opened).astype(int) - RED).max() <= 3


def test_avif_names_the_package_that_adds_it(monkeypatch):
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    with pytest.raises(ImageError, match="built without AVIF: install a wheel of pillow"):
        open_image(iso_file(b"avif", b"mif1", b"miaf"))


@pytest.mark.parametrize("error", [RuntimeError, AssertionError, MemoryError, AttributeError])
def test_whatever_a_decoder_raises_the_image_is_broken(error, monkeypatch):
    """A corrupt AVIF raises RuntimeError, a palette that is too short AssertionError."""

    def fail(self):
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(ImageError, match=f"<bytes>: broken image: {error.__name__}"):
        open_image(encoded(Image.fromarray(corners())))


def test_a_corrupt_avif_is_broken():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "AVIF")
    coded = data.index(b"mdat") + 4
    corrupt = data[:coded] + bytes(len(data) - coded)
    with pytest.raises(RuntimeError), Image.open(io.BytesIO(corrupt)) as image:
        image.load()
    with pytest.raises(ImageError, match="broken image: Failed to decode"):
        open_image(corrupt)


def test_pipes_devices_and_folders_are_refused_before_they_are_opened(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero", "/dev/null", tmp_path):
        with pytest.raises(ImageError, match="cannot be read: not a regular file"):
            open_image(path)


def test_a_file_is_measured_before_it_is_read(tmp_path):
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(30 * 2**30)
    with pytest.raises(ImageError, match=r"32\.2 GB is over the limit of 537 MB \(max_bytes\)"):
        open_image(path)
    data = encoded(Image.fromarray(corners()))
    small = tmp_path / "small.png"
    small.write_bytes(data)
    for source in (data, small):
        assert open_image(source, max_bytes=len(data)).size == (3, 2)
        with pytest.raises(ImageError, match="is over the limit"):
            open_image(source, max_bytes=len(data) - 1)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP", b"tEXt"])
@pytest.mark.parametrize("last", [False, True], ids=["before", "after"])
def test_a_png_is_read_whatever_text_or_profile_it_carries(kind, last):
    text = b"x" * 3_000_000
    body = {
        b"zTXt": b"Comment\0\0" + zlib.compress(text),
        b"iTXt": b"Comment\0\1\0\0\0" + zlib.compress(text),
        b"iCCP": b"profile\0\0" + zlib.compress(text),
        b"tEXt": b"Comment\0" + text,
    }[kind]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    plain = encoded(Image.fromarray(corners()), exif=exif)
    at = len(plain) - 12 if last else 33  # before the end, or after the header
    chunk = b"".join([png_chunk(kind, body)] * (25 if kind == b"tEXt" else 1))
    carrying = plain[:at] + chunk + plain[at:]
    np.testing.assert_array_equal(pixels(open_image(carrying)), pixels(open_image(plain)))


def test_the_limit_may_lie_above_pillows_own(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "PPM", "WEBP", "GIF"):
        assert open_image(encoded(Image.new("RGB", (30, 30)), kind)).size == (30, 30)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(ImageError, match="over the limit"):
        open_image(encoded(Image.new("RGB", (30, 30))), max_pixels=899)
    assert MAX_PIXELS > 100


def test_a_name_with_half_a_surrogate_pair_is_one_printable_line():
    for path in ("\udcd5\udce2.png", "\ud800.png"):
        with pytest.raises(ImageError, match="no such file") as caught:
            open_image(path)
        assert str(caught.value).isprintable()


def test_a_base64_image_in_place_of_a_path_is_printed_shortened():
    with pytest.raises(ImageError, match="cannot be read") as caught:
        open_image("iVBORw0KGgo" * 400_000)
    assert len(str(caught.value)) < 200


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
