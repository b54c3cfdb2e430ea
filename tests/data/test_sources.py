import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from hf_wgan import InputError, load_images
from hf_wgan.data import DataConfig


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def pictures(count=3, mode="RGB"):
    rng = np.random.default_rng(0)
    return [PILImage.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).convert(mode) for _ in range(count)]


def as_dataset(**columns):
    features = {
        name: Image() if isinstance(values[0], PILImage.Image) else Value("int64") for name, values in columns.items()
    }
    return Dataset.from_dict(columns, features=Features(features))


def pixels(images):
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def test_the_default_is_the_digits_in_a_margin():
    digits = load_images(DataConfig(resolution=16))
    assert digits.images.shape == (1797, 1, 16, 16)
    assert digits.images[:, :, 0].max() < 64, "the frame stays dark"
    assert digits.images[:, :, 4:12, 4:12].max() == 255
    assert digits.fingerprint == load_images(DataConfig(resolution=16)).fingerprint


def test_a_folder_of_images_at_any_depth(tmp_path):
    originals = pictures(4)
    for index, picture in enumerate(originals):
        folder = tmp_path / "photos" / ("a" * (index % 2)) / ("b" * (index % 2))
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{index}.png")
    images = load_images(DataConfig(train_data_dir=str(tmp_path / "photos"), resolution=8)).images
    assert sorted(images.flatten(1).tolist()) == sorted(pixels(originals).flatten(1).tolist())


def test_a_saved_dataset_and_its_splits(tmp_path):
    one, two = pictures(3), pictures(2)
    as_dataset(image=one).save_to_disk(tmp_path / "plain")
    DatasetDict(train=as_dataset(image=one), test=as_dataset(image=two)).save_to_disk(tmp_path / "splits")
    assert torch.equal(load_images(DataConfig(dataset_name=str(tmp_path / "plain"), resolution=8)).images, pixels(one))
    test = load_images(DataConfig(dataset_name=str(tmp_path / "splits"), dataset_split="test", resolution=8))
    assert torch.equal(test.images, pixels(two))
    with pytest.raises(InputError, match=r"dataset_split='valid': .* has only 'train', 'test'"):
        load_images(DataConfig(dataset_name=str(tmp_path / "splits"), dataset_split="valid", resolution=8))


def test_a_folder_of_parquet(tmp_path):
    (tmp_path / "set").mkdir()
    as_dataset(image=pictures(3)).to_parquet(tmp_path / "set" / "train.parquet")
    images = load_images(DataConfig(dataset_name=str(tmp_path / "set"), resolution=8)).images
    assert torch.equal(images, pixels(pictures(3)))


def test_the_image_column_is_found_by_type_or_named(tmp_path):
    photos, masks = pictures(2), pictures(2, "L")
    as_dataset(id=[1, 2], photo=photos).save_to_disk(tmp_path / "one")
    as_dataset(id=[1, 2], photo=photos, mask=masks).save_to_disk(tmp_path / "two")
    as_dataset(id=[1, 2]).save_to_disk(tmp_path / "none")

    def load(name, **options):
        return load_images(DataConfig(dataset_name=str(tmp_path / name), resolution=8, **options))

    assert torch.equal(load("one").images, pixels(photos))
    assert load("two", image_column="mask").images.shape == (2, 1, 8, 8)
    with pytest.raises(InputError, match=r"several image columns: set image_column; .*photo \(Image\), mask \(Image\)"):
        load("two")
    with pytest.raises(InputError, match="no image column"):
        load("none")
    with pytest.raises(InputError, match=r"image_column='picture': .* no image column of that name"):
        load("one", image_column="picture")


def test_channels_can_be_set(tmp_path):
    as_dataset(image=pictures(2)).save_to_disk(tmp_path / "set")
    images = load_images(DataConfig(dataset_name=str(tmp_path / "set"), resolution=8, channels="1")).images
    assert images.shape == (2, 1, 8, 8)


def test_a_damaged_picture_is_named(tmp_path):
    for index, picture in enumerate(pictures(2)):
        picture.save(tmp_path / f"{index}.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="image 1 cannot be"):
        load_images(DataConfig(train_data_dir=str(tmp_path), resolution=8))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"train_data_dir": "no/such/folder"}, "train_data_dir='no/such/folder': there is no such folder"),
        ({"dataset_name": "nobody/nothing"}, "dataset_name='nobody/nothing': cannot be loaded"),
        ({"dataset_name": "a", "train_data_dir": "b"}, "dataset_name and train_data_dir were both given"),
        ({"resolution": 0}, "resolution=0"),
    ],
)
def test_bad_sources_are_named(options, message):
    with pytest.raises(InputError, match=message):
        load_images(DataConfig(**options))


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(InputError, match="there are no image files in it"):
        load_images(DataConfig(train_data_dir=str(tmp_path)))
