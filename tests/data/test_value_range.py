"""The range of values beyond 8 bits, which is that of the training images wherever a picture is read for them."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from hf_wgan import InputError, load_images
from hf_wgan.data import DataConfig, ImageStream, StreamedBatches, cache, images_of, load_held_out
from hf_wgan.data.decode import Preprocessing, ValueRange, decode, ranges_in_words
from hf_wgan.data.load import check_same_ranges

BRIGHTNESS = {"train": 5000, "test": 4000}  # alone, the latter would be shown from 0 to 4095


def write(folder, highest, dtype=np.uint16, suffix="png", number=8, size=8):
    """Write pictures of ramps up to `highest`, all different."""
    folder.mkdir(parents=True)
    ramp = np.linspace(0, 1, size * size).reshape(size, size)
    for index in range(number):
        values = ramp * highest * (number + index + 1) / (2 * number)
        Image.fromarray(values.astype(dtype)).save(folder / f"{index}.{suffix}")


@pytest.fixture
def sets(tmp_path):
    for split, highest in BRIGHTNESS.items():
        write(tmp_path / "deep" / split, highest)
    return DataConfig(
        train_data_dir=str(tmp_path / "deep"),
        resolution=8,
        held_out_split="test",
        cache_dir=str(tmp_path / "cache"),
        dataloader_num_workers=2,
    )


def brightness(images):
    return float(images.images.float().mean())


def raw_brightness(folder, low=0, high=16383):
    values = [np.asarray(Image.open(path)).astype(float) for path in folder.iterdir()]
    return 255 * (np.mean(values) - low) / (high - low)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("is_first", [True, False])
def test_held_out_images_have_the_range_of_the_training_images(known, is_first, sets, tmp_path):
    images = load_images(sets) if known or is_first else None
    held_out = load_held_out(images.config if known else sets)
    images = images or load_images(sets)
    assert images.config.value_range == held_out.config.value_range == "uint16:0,16383"
    for name, of_split in {"train": images, "test": held_out}.items():
        assert brightness(of_split) == pytest.approx(raw_brightness(tmp_path / "deep" / name), abs=0.6)


def test_an_explicit_range_is_that_of_both_and_stays_as_it_is(sets):
    config = DataConfig(**{**vars(sets), "value_range": "1000,4000"})
    for images in (load_images(config), load_held_out(config)):
        assert images.config.value_range == "1000,4000"
        assert images.images.min() == 0 and images.images.max() >= 254


def test_images_of_8_bits_have_no_range(tmp_path):
    for split in BRIGHTNESS:
        write(tmp_path / "plain" / split, 200, np.uint8)
    config = DataConfig(train_data_dir=str(tmp_path / "plain"), resolution=8, held_out_split="test")
    images = load_images(config)
    assert images.config is config and load_held_out(config).config.value_range is None


def test_a_known_range_gives_the_same_set_from_the_same_cache(sets, monkeypatch):
    images = load_images(sets)
    monkeypatch.setattr(cache, "decode_or_error", lambda *arguments: pytest.fail("an image is decoded again"))
    for channels in (None, 1):
        again = load_images(DataConfig(**{**vars(images.config), "channels": channels}))
        assert (again.fingerprint, again.config.value_range) == (images.fingerprint, "uint16:0,16383")
        assert np.array_equal(again.images, images.images)


def test_another_range_is_another_entry_of_the_cache(sets):
    images = load_images(sets)
    darker = load_images(DataConfig(**{**vars(sets), "value_range": "uint16:0,65535"}))
    assert brightness(darker) == pytest.approx(brightness(images) / 4, abs=0.6)
    assert brightness(load_images(sets)) == brightness(images)


def test_of_several_types_each_has_its_range_and_a_new_one_its_own(tmp_path):
    write(tmp_path / "both" / "train" / "a", 5000)
    write(tmp_path / "both" / "train" / "b", 0.5, np.float32, "tiff")
    write(tmp_path / "both" / "test", 0.1, np.float32, "tiff")
    config = DataConfig(train_data_dir=str(tmp_path / "both"), resolution=8, held_out_split="test")
    images = load_images(config)
    ranges = {"uint16:0,16383", "float:0,1"}
    assert set(images.config.value_range.split(";")) == ranges
    held_out = load_held_out(images.config)
    assert brightness(held_out) == pytest.approx(raw_brightness(tmp_path / "both" / "test", 0, 1), abs=0.6)
    partly = load_images(DataConfig(**{**vars(config), "value_range": "uint16:0,8191"}))
    assert partly.config.value_range == "uint16:0,8191;float:0,1"


def test_whole_numbers_of_another_type_have_the_range_too(tmp_path):
    write(tmp_path / "types" / "train", 5000)
    write(tmp_path / "types" / "test", 4000, np.int32, "tiff")
    images = load_held_out(DataConfig(train_data_dir=str(tmp_path / "types"), resolution=8, held_out_split="test"))
    assert brightness(images) == pytest.approx(raw_brightness(tmp_path / "types" / "test"), abs=0.6)


def dataset_of(folder):
    contents = [{"bytes": path.read_bytes(), "path": None} for path in sorted(folder.iterdir())]
    return Dataset.from_dict({"image": contents}, features=Features({"image": ImageFeature()}))


def test_a_stream_keeps_the_range_of_its_first_images(sets, tmp_path):
    dataset = dataset_of(tmp_path / "deep" / "train")
    config = DataConfig(resolution=8, dataloader_num_workers=0)
    stream = images_of(dataset.to_iterable_dataset(), config)
    assert stream.config.value_range == "uint16:0,16383"
    again = ImageStream(stream.stream, stream.config)
    assert (again.how, again.fingerprint, again.config) == (stream.how, stream.fingerprint, stream.config)
    first, second = (next(StreamedBatches(images, 4, seed=0)).images for images in (stream, again))
    assert np.array_equal(first, second)
    other = images_of(dataset_of(tmp_path / "deep" / "test").to_iterable_dataset(), stream.config)
    batch = next(StreamedBatches(other, 8, seed=0)).images
    assert float((batch + 1).mean() * 127.5) == pytest.approx(raw_brightness(tmp_path / "deep" / "test"), abs=0.6)


def test_sets_of_different_ranges_are_not_compared(sets, tmp_path):
    images = load_images(sets)
    alone = load_images(DataConfig(train_data_dir=str(tmp_path / "deep" / "test"), resolution=8))
    with pytest.raises(InputError, match=r"held_out: .*value_range='uint16:0,4095' and the training images with"):
        check_same_ranges(images, alone)
    check_same_ranges(images, load_held_out(sets))
    explicit = DataConfig(train_data_dir=str(tmp_path / "deep" / "test"), resolution=8, value_range="0,16383")
    check_same_ranges(images, load_images(explicit))
    with pytest.raises(InputError, match=r"value_range='0,16383' and the training images with value_range='0,4095'"):
        check_same_ranges(load_images(replace(explicit, value_range="0,4095")), load_images(explicit))


def test_ranges_as_text_keep_every_digit():
    ranges = (ValueRange("int16", -1024.0, 3071.0), ValueRange("float", 0.1, 1e300), ValueRange("int64", 5.0, 5.0))
    text = ranges_in_words(ranges)
    assert text == "int16:-1024,3071;float:0.1,1e+300;int64:5,5"
    assert Preprocessing(8, 1).with_range(text).ranges == ranges
    for wrong in (
        "uint9:0,1",
        "uint16:1,0",
        "uint16:0,1;uint16:0,2",
        "0,1;float:0,1",
        "uint16:0",
        "float:0,inf",
        "",
        5,
    ):
        with pytest.raises(InputError, match=r"value_range=.*: must be LOW,HIGH"):
            Preprocessing(8, 1).with_range(wrong)


def test_a_png_file_of_16_bits_has_one_type_whatever_opened_it():
    """Pillow 10.1 opens it as 32-bit values."""
    picture = Image.fromarray(np.full((8, 8), 8191, np.int32))
    picture.format = "PNG"
    how = Preprocessing(8, 1).with_range("uint16:0,16383;int32:0,65535")
    assert decode(picture, how).mean() == 127
