"""Every kind of picture decodes to what PIL shows of it."""

import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from conftest import pictures
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from hf_wgan import InputError
from hf_wgan.data import DataConfig, RealBatches, StreamedBatches, images_of
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


RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def deep(values, dtype):
    return Image.fromarray(values.astype(dtype))


def signed_tiff(values):
    """A TIFF of signed 16-bit integers, which PIL can read and not write."""
    pixels = values.astype("<i2").tobytes()
    height, width = values.shape
    entries = [(256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
               (278, 3, height), (279, 4, len(pixels)), (339, 3, 2)]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack("<HHII", tag, kind, 1, value)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + bytes(4)


DEEP = {
    "16 bits": encoded(deep(RAMP * 65535, np.uint16)),
    "14 bits in 16": encoded(deep(RAMP * 16383, np.uint16)),
    "12 bits in 16": encoded(deep(RAMP * 4095, np.uint16)),
    "10 bits in 16": encoded(deep(RAMP * 1023, np.uint16), "tiff"),
    "8 bits in 16": encoded(deep(RAMP * 255, np.uint16)),
    "8 bits in 32": encoded(deep(RAMP * 255, np.int32), "tiff"),
    "16 bits in 32": encoded(deep(RAMP * 65535, np.int32), "tiff"),
    "31 bits": encoded(deep(RAMP * (2**31 - 1), np.int32), "tiff"),
    "Hounsfield": signed_tiff(RAMP * 4000 - 1000),
    "float in [0, 1]": encoded(deep(RAMP, np.float32), "tiff"),
    "float in [-1, 1]": encoded(deep(RAMP * 2 - 1, np.float32), "tiff"),
    "float in [0, 255]": encoded(deep(RAMP * 255, np.float32), "tiff"),
    "float in [0, 65535]": encoded(deep(RAMP * 65535, np.float32), "tiff"),
    "float beyond [0, 1]": encoded(deep(RAMP * 1.02 - 0.01, np.float32), "tiff"),
    "float with NaN": encoded(deep(np.where(RAMP == 0, np.nan, RAMP), np.float32), "tiff"),
    "float in [0, 1e-4]": encoded(deep(RAMP * 1e-4, np.float32), "tiff"),
    "array of float64": RAMP,
    "array of float16, channels first": np.stack([RAMP] * 3).astype(np.float16),
    "array of int64, 3 channels": np.stack([RAMP * 255] * 3, axis=2).astype(np.int64),
    "array of bool": RAMP > 0.5,
    "array (H, W, 1)": (RAMP * 255).astype(np.uint8)[..., None],
}


@pytest.mark.parametrize("name", DEEP)
def test_values_of_any_type_and_range_are_shown_from_black_to_white(name):
    expected = (RAMP > 0.5) * 255.0 if "bool" in name else RAMP * 255
    pixels = decode(DEEP[name], how()).astype(float)
    assert np.abs(pixels - expected[..., None]).max() <= 1.5
    if isinstance(DEEP[name], bytes):  # opened by the person
        assert np.array_equal(decode(Image.open(io.BytesIO(DEEP[name])), how()), pixels)


def dataset_of(contents):
    features = Features({"image": ImageFeature()})
    return Dataset.from_dict({"image": [{"bytes": content, "path": None} for content in contents]}, features=features)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_range_is_that_of_the_set_and_is_said(streaming, capsys):
    """A dark image of a set stays dark."""
    dataset = dataset_of([encoded(deep(RAMP * high, np.uint16)) for high in (900, 4000, 2000)])
    config = DataConfig(resolution=8, dataloader_num_workers=0)
    if streaming:
        batches = StreamedBatches(images_of(dataset.to_iterable_dataset(), config), 3, seed=0)
        pixels = (next(batches).images + 1) * 127.5
    else:
        pixels = images_of(dataset, config).images
    maxima = sorted(pixels.amax(dim=(1, 2, 3)).round().int().tolist())
    assert maxima == [56, 125, 249]
    said = capsys.readouterr().err
    assert "images hold uint16 values from 0 to 4000: 0 is shown as black and 4095 as white" in said
    images_of(dataset, config)
    assert ("is shown as black" in capsys.readouterr().err) or streaming, "from the cache too"


def test_the_range_of_the_type_needs_no_words_and_another_can_be_asked_for(capsys):
    full = dataset_of([DEEP["16 bits"]] * 3)
    assert images_of(full, DataConfig(resolution=8)).images.max() == 255
    assert "is shown as black" not in capsys.readouterr().err
    dark = dataset_of([encoded(deep(RAMP * 4000, np.uint16))] * 3)
    assert images_of(dark, DataConfig(resolution=8, value_range="0,65535")).images.max() == 16
    assert images_of(dark, DataConfig(resolution=8, value_range="1000,2000")).images.float().mean() > 127
    for wrong in ("0", "5,1", "a,b", "0,inf", "1,2,3"):
        with pytest.raises(InputError, match=r"value_range=.*: must be LOW,HIGH"):
            DataConfig(value_range=wrong)


def test_types_of_values_are_scaled_each_by_its_own_range():
    dataset = dataset_of([DEEP["12 bits in 16"], DEEP["float in [0, 1]"], encoded(deep(RAMP * 255, np.uint8))])
    for image in images_of(dataset, DataConfig(resolution=8)).images:
        assert np.abs(image[0].numpy() - RAMP * 255).max() <= 1.5


def test_a_deep_image_with_a_transparent_value_shows_the_background():
    data = encoded(deep(RAMP * 65535, np.uint16), transparency=65535)
    assert decode(data, how(background="#000000"))[-1, -1].tolist() == [0, 0, 0]
    assert decode(data, how(channels=2))[-1, -1, 1] == 0


@pytest.mark.parametrize("center_crop", [True, False])
def test_images_for_networks_that_are_not_square(center_crop, tmp_path):
    dataset = dataset_of([encoded(picture) for picture in pictures(6, size=(40, 24))])
    config = DataConfig(resolution=6, width=10, center_crop=center_crop, dataloader_num_workers=0)
    images = images_of(dataset, config)
    assert images.shape == (3, 6, 10) and images.is_square
    assert images.images.shape == (6, 3, 6, 10)
    tall = images_of(dataset_of([encoded(picture) for picture in pictures(6, size=(24, 40))]), config)
    assert tall.is_square == center_crop
    assert next(RealBatches(tall, 6, seed=0)).images.shape == (6, 3, 6, 10)
    stream = images_of(dataset.to_iterable_dataset(), config)
    assert next(StreamedBatches(stream, 6, seed=0)).images.shape == (6, 3, 6, 10)


@pytest.mark.parametrize(
    "exif",
    [b"garbage!" * 4, b"", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\0\0\0\0",
     b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0", b"II*\0\xff\xff\xff\x7f"],
)  # fmt: skip
def test_damaged_exif_says_nothing_of_the_pixels(exif):
    data = encoded(pictures(1)[0], "jpeg")
    damaged = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + data[2:]
    assert np.array_equal(decode(damaged, how()), decode(data, how()))


def test_a_small_file_of_a_long_strip_is_refused_before_it_takes_memory():
    strip = encoded(Image.new("RGB", (1, 200_000)))
    assert len(strip) < 2000
    tracemalloc.start()
    error = decode_or_error(strip, how(64, center_crop=False))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "over 32 times as long as wide" in str(error) and peak < 50e6
    assert decode(strip, how(64)).shape == (64, 64, 3)
