"""Every kind of picture decodes to what PIL shows of it."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from conftest import pictures
from PIL import Image

from hf_wgan import InputError
from hf_wgan.data.cache import decode_or_error
from hf_wgan.data.decode import Preprocessing, decode, is_grey, reason


def how(resolution=8, channels=3, **options):
    return Preprocessing(resolution, channels, **options)


def ramp(mode="L", size=(8, 8)):
    pixels = np.linspace(0, 255, size[0] * size[1]).astype(np.uint8).reshape(size[::-1])
    return Image.fromarray(pixels).convert(mode)


def encoded(image, form="png", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "mode, form",
    [("L", "png"), ("1", "png"), ("P", "png"), ("RGB", "png"), ("RGB", "jpeg"), ("L", "jpeg"), ("CMYK", "jpeg"),
     ("CMYK", "tiff"), ("RGB", "webp"), ("RGB", "bmp"), ("P", "gif"), ("YCbCr", "jpeg")],
)  # fmt: skip
def test_formats_and_modes(mode, form):
    (picture,) = pictures(1, "RGB")
    data = encoded(picture.convert(mode), form)
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode(data, how()), shown)


@pytest.mark.parametrize("channels, mode", [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_channels(channels, mode):
    (picture,) = pictures(1)
    pixels = decode(picture, how(channels=channels))
    assert pixels.shape == (8, 8, channels)
    assert np.array_equal(pixels.squeeze(), np.asarray(picture.convert(mode)))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("background, shown", [("white", 255), ("black", 0), ("#808080", 128)])
def test_transparency_shows_the_background(mode, background, shown):
    hidden = Image.new(mode, (8, 8))  # wholly transparent black
    for channels in (1, 3):
        assert (decode(encoded(hidden), how(channels=channels, background=background)) == shown).all()


def test_half_transparency_is_composited():
    picture = Image.new("RGBA", (8, 8), (200, 100, 0, 128))
    assert np.array_equal(decode(picture, how())[0, 0], [227, 177, 127])


def test_transparency_of_a_palette_is_seen():
    picture = ramp("P")
    data = encoded(picture, transparency=picture.getpixel((0, 0)))
    assert (decode(data, how())[0, 0] == 255).all()


def test_transparency_is_kept_where_there_is_a_channel_for_it():
    assert (decode(Image.new("RGBA", (8, 8)), how(channels=4)) == 0).all()
    assert (decode(Image.new("RGBA", (8, 8)), how(channels=2)) == 0).all()


@pytest.mark.parametrize("orientation, quarters", [(3, 2), (6, 3), (8, 1)])
def test_pictures_are_turned_upright(orientation, quarters):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = decode(encoded(ramp(), exif=exif), how(channels=1))
    assert np.array_equal(turned[..., 0], np.rot90(np.asarray(ramp()), quarters))


def test_sixteen_bits_are_scaled_to_eight():
    deep = Image.fromarray(np.asarray(ramp()).astype(np.uint16) * 257)
    assert deep.mode.startswith("I")
    assert np.array_equal(decode(encoded(deep), how(channels=1))[..., 0], np.asarray(ramp()))


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
def test_animations_show_their_first_frame(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    assert np.array_equal(decode(data, how())[4, 4], [255, 0, 0])


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (3, 5), (20_000, 40)])
def test_other_shapes_are_cropped_to_the_middle_and_not_stretched(size):
    pixels = np.zeros(size[::-1], np.uint8)
    middle = tuple(slice((side - min(size)) // 2, (side + min(size)) // 2) for side in size[::-1])
    pixels[middle] = 200
    square = decode(Image.fromarray(pixels), how(channels=1))[..., 0].astype(int)
    assert square.shape == (8, 8)
    assert abs(square[1:-1, 1:-1] - 200).max() <= 40


def test_without_cropping_the_longer_side_is_kept():
    assert decode(ramp(size=(40, 20)), how(channels=1, center_crop=False)).shape == (8, 16, 1)
    assert decode(ramp(size=(20, 41)), how(channels=1, center_crop=False)).shape == (16, 8, 1)
    assert decode(ramp(size=(20, 20)), how(channels=1, center_crop=False)).shape == (8, 8, 1)


def test_scaling_down_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    assert abs(decode(Image.fromarray(stripes), how(channels=1)).astype(int) - 127).max() < 16


def png_of_size(width, height):
    """A small file that claims to be huge."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "data, why",
    [
        (b"", "it is empty"),
        (b"hello, this is text", "it is no picture that PIL knows"),
        (encoded(*pictures(1, size=(64, 64)))[:2000], "truncated"),
        (encoded(*pictures(1, size=(64, 64)), form="jpeg")[:1000], "truncated"),
        (png_of_size(100_000, 100_000), "exceeds limit"),
        (png_of_size(10_000, 10_000), "over PIL's limit"),
        (None, "it is missing"),
        ("no/such/file.png", "No such file"),
    ],
)
def test_bad_pictures_are_errors_that_say_why(data, why):
    error = decode_or_error(data, how())
    assert isinstance(error, Exception)
    assert why in reason(error)


def test_a_path_will_do(tmp_path):
    ramp().save(tmp_path / "ramp.png")
    assert np.array_equal(decode(os.fspath(tmp_path / "ramp.png"), how(channels=1))[..., 0], np.asarray(ramp()))


def test_grey_is_seen_in_any_mode():
    assert is_grey(decode(ramp("RGB"), how()))
    assert not is_grey(decode(pictures(1)[0], how()))


@pytest.mark.parametrize(
    "options, message",
    [({"resolution": 0}, "resolution=0"), ({"channels": 5}, "channels=5"), ({"background": "whitish"}, "background=")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        how(**options)
