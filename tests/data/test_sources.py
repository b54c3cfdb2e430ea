"""Every source gives the same pictures, and says what it needs when it cannot."""

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from conftest import pictures
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDataset, IterableDatasetDict, Value
from PIL import Image as PILImage

from hf_wgan import InputError, load_images
from hf_wgan.data import DataConfig, ImageSet, RealBatches, images_of


def load(**options):
    return load_images(DataConfig(**{"resolution": 8, **options}))


def as_dataset(**columns):
    kinds = {PILImage.Image: Image(), int: Value("int64"), str: ClassLabel(names=["cat", "dog"])}
    features = Features({name: kinds[type(values[0])] for name, values in columns.items()})
    values = {
        name: [["cat", "dog"].index(value) for value in values] if isinstance(values[0], str) else values
        for name, values in columns.items()
    }
    return Dataset.from_dict(values, features=features)


def contents(images):
    pixels = (
        images.images
        if isinstance(images, ImageSet)
        else torch.from_numpy(np.stack(list(map(np.asarray, images)))).permute(0, 3, 1, 2)
    )
    return sorted(pixels.flatten(1).tolist())


def saved(folder, images, form="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        image.save(folder / f"{number:03d}.{form}")
    return folder


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    data = header + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_tar(path, images):
    with tarfile.open(path, "w") as tar:
        for number, image in enumerate(images):
            file = io.BytesIO()
            image.save(file, "png")
            member = tarfile.TarInfo(f"{number:04d}.png")
            member.size = file.tell()
            file.seek(0)
            tar.addfile(member, file)


def test_the_default_is_the_digits_in_a_margin():
    digits = load(resolution=16)
    assert digits.images.shape == (1797, 1, 16, 16)
    assert digits.images[:, :, 0].max() < 64, "the frame stays dark"
    assert digits.images[:, :, 4:12, 4:12].max() == 255
    assert torch.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    zeros, ones = (digits.images[digits.labels == kind].float().mean(0)[0] for kind in (0, 1))
    assert zeros[7:9, 7:9].mean() < 60 < 150 < ones[7:9, 7:9].mean(), "a zero is hollow, a one is not"


def test_the_same_pictures_give_the_same_batches_from_every_source(tmp_path):
    grey = [picture.convert("L") for picture in pictures(20)]
    labels = [number % 2 for number in range(20)]
    classes = [["cat", "dog"][label] for label in labels]
    array = np.stack([np.asarray(picture) for picture in grey])
    write_idx(tmp_path / "idx" / "train-images-idx3-ubyte", array)
    write_idx(tmp_path / "idx" / "train-labels-idx1-ubyte", np.array(labels))
    write_idx(tmp_path / "gz" / "train-images-idx3-ubyte.gz", array)
    write_idx(tmp_path / "gz" / "train-labels-idx1-ubyte.gz", np.array(labels))
    dataset = as_dataset(image=grey, label=classes)
    (tmp_path / "parquet").mkdir()
    dataset.to_parquet(tmp_path / "parquet" / "train.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    DatasetDict(train=dataset).save_to_disk(tmp_path / "splits")
    for name, members in (("cat", grey[::2]), ("dog", grey[1::2])):
        saved(tmp_path / "classes" / name, members)
    write_tar(tmp_path / "images.tar", grey)
    arrow = next((tmp_path / "saved").glob("*.arrow"))

    sources = {
        "idx folder": load(dataset_name=str(tmp_path / "idx")),
        "idx file": load(dataset_name=str(tmp_path / "idx" / "train-images-idx3-ubyte")),
        "idx gz": load(dataset_name=str(tmp_path / "gz")),
        "parquet folder": load(dataset_name=str(tmp_path / "parquet")),
        "parquet file": load(dataset_name=str(tmp_path / "parquet" / "train.parquet")),
        "arrow file": load(dataset_name=str(arrow)),
        "save_to_disk": load(dataset_name=str(tmp_path / "saved")),
        "save_to_disk splits": load(dataset_name=str(tmp_path / "splits")),
        "folder a class": load(train_data_dir=str(tmp_path / "classes")),
        "flat folder": load(train_data_dir=str(saved(tmp_path / "flat", grey))),
        "webdataset": load(dataset_name=str(tmp_path / "images.tar")),
        "Dataset": images_of(dataset, DataConfig(resolution=8)),
        "DatasetDict": images_of(DatasetDict(train=dataset), DataConfig(resolution=8)),
    }
    expected = next(RealBatches(sources["idx folder"], 7, seed=3))
    for name, images in sources.items():
        batch = next(RealBatches(images, 7, seed=3))
        assert torch.equal(batch.images, expected.images), name
        assert images.fingerprint == sources["idx folder"].fingerprint, name
        if name not in ("flat folder", "webdataset"):
            assert torch.equal(batch.labels, expected.labels), name
    assert sources["folder a class"].label_names == sources["parquet file"].label_names == ["cat", "dog"]


def test_a_folder_of_images_at_any_depth(tmp_path):
    originals = pictures(6)
    for depth, folder in enumerate((".", "a", "a/b")):
        saved(tmp_path / folder, originals[2 * depth : 2 * depth + 2])
    assert contents(load(train_data_dir=str(tmp_path))) == contents(originals)


def test_splits_of_a_folder_are_kept_apart(tmp_path):
    one, two = pictures(4), pictures(3, seed=1)
    saved(tmp_path / "train" / "cat", one)
    saved(tmp_path / "test" / "dog", two)
    assert contents(load(train_data_dir=str(tmp_path))) == contents(one)
    assert contents(load(train_data_dir=str(tmp_path), dataset_split="test")) == contents(two)


def test_metadata_of_a_folder_names_labels(tmp_path):
    saved(tmp_path, pictures(4))
    rows = [{"file_name": f"{number:03d}.png", "digit": number * 3} for number in range(4)]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = load(train_data_dir=str(tmp_path), label_column="digit")
    assert sorted(images.labels.tolist()) == [0, 1, 2, 3]
    assert images.label_names == ["0", "3", "6", "9"]
    label_of = {bytes(np.asarray(picture).tobytes()): number for number, picture in enumerate(pictures(4))}
    for image, label in zip(images.images, images.labels):
        assert label_of[image.permute(1, 2, 0).contiguous().numpy().tobytes()] == label


def test_splits_and_a_number_of_samples_can_be_chosen(tmp_path):
    DatasetDict(train=as_dataset(image=pictures(3)), test=as_dataset(image=pictures(2, seed=1))).save_to_disk(
        tmp_path / "s"
    )
    assert contents(load(dataset_name=str(tmp_path / "s"), dataset_split="test")) == contents(pictures(2, seed=1))
    assert contents(load(dataset_name=str(tmp_path / "s"), max_train_samples=2)) == contents(pictures(2))
    assert len(load(dataset_name=str(tmp_path / "s"), max_train_samples=200)) == 3
    assert len(load(max_train_samples=100)) == 100
    with pytest.raises(InputError, match=r"dataset_split='valid': .* has only 'train', 'test'"):
        load(dataset_name=str(tmp_path / "s"), dataset_split="valid")

    array = np.zeros((3, 8, 8))
    write_idx(tmp_path / "idx" / "t10k-images-idx3-ubyte", array)
    write_idx(tmp_path / "idx" / "train-images-idx3-ubyte", np.zeros((4, 8, 8)))
    assert len(load(dataset_name=str(tmp_path / "idx"), dataset_split="test")) == 3


def test_columns_are_found_by_type_or_named(tmp_path):
    photos, masks = pictures(2), pictures(2, "L", seed=1)
    as_dataset(id=[1, 2], photo=photos, kind=["cat", "dog"]).save_to_disk(tmp_path / "one")
    as_dataset(photo=photos, mask=masks, kind=["cat", "dog"], mood=["dog", "dog"]).save_to_disk(tmp_path / "two")
    as_dataset(id=[1, 2]).save_to_disk(tmp_path / "none")

    def of(name, **options):
        return load(dataset_name=str(tmp_path / name), **options)

    assert contents(of("one")) == contents(photos)
    assert sorted(of("one").labels.tolist()) == [0, 1]
    assert sorted(of("one", label_column="id").labels.tolist()) == [0, 1]
    assert of("one", label_column="id").label_names == ["1", "2"]
    assert of("two", image_column="mask", label_column="mood").shape == (1, 8, 8)
    columns = r"its columns are photo \(Image\), mask \(Image\), kind \(ClassLabel\), mood \(ClassLabel\)"
    for options, message in (
        ({}, f"several columns that could be the image_column: set it; {columns}"),
        ({"image_column": "mask"}, f"several columns that could be the label_column: set it; {columns}"),
        ({"image_column": "picture"}, "image_column='picture': .* has no such image column"),
        ({"image_column": "kind"}, "image_column='kind': .* has no such image column"),
        ({"image_column": "mask", "label_column": "age"}, "label_column='age': .* has no such label column"),
        ({"image_column": "mask", "label_column": "photo"}, "label_column='photo': holds records; a label must be"),
    ):
        with pytest.raises(InputError, match=message):
            of("two", **options)
    with pytest.raises(InputError, match="no image column: set image_column"):
        of("none")


def test_missing_pictures_are_bad_pictures(tmp_path, capsys):
    images = [*pictures(3), None]
    Dataset.from_dict({"image": images}, features=Features({"image": Image()})).save_to_disk(tmp_path / "set")
    assert len(load(dataset_name=str(tmp_path / "set"), max_bad_images=0.5)) == 3
    assert "row 3: it is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        ({"train_data_dir": "no/such/folder"}, "train_data_dir='no/such/folder': there is no such folder"),
        ({"dataset_name": "nobody/nothing"}, "dataset_name='nobody/nothing': cannot be loaded"),
        ({"dataset_name": "a", "train_data_dir": "b"}, "dataset_name and train_data_dir were both given"),
        ({"resolution": 0}, "resolution=0"),
        ({"channels": 5}, "channels=5"),
        ({"background": "whitish"}, "background='whitish'"),
        ({"max_train_samples": 0}, "max_train_samples=0"),
        ({"max_bad_images": 1.5}, "max_bad_images=1.5"),
        ({"memory_limit_gb": -1.0}, "memory_limit_gb=-1.0"),
        ({"streaming": True}, "streaming: the digits are no stream"),
    ],
)
def test_bad_sources_are_named(options, message):
    with pytest.raises(InputError, match=message):
        load(**options)


@pytest.mark.parametrize("split", ["train", "test", "train+test[:50%]"])
@pytest.mark.parametrize("empty", [DatasetDict(), IterableDatasetDict(), Dataset.from_dict({})])
def test_a_dataset_that_is_empty_is_said_to_be(empty, split):
    with pytest.raises(InputError, match=r"^dataset: there are no (splits|images) in it"):
        images_of(empty, DataConfig(resolution=8, train_data_dir="x", dataset_split=split))


def test_bad_files_are_named(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    write_idx(tmp_path / "short" / "train-images-idx3-ubyte", np.zeros((3, 8, 8)))
    short = tmp_path / "short" / "train-images-idx3-ubyte"
    short.write_bytes(short.read_bytes()[:-10])
    write_idx(tmp_path / "gz" / "train-images-idx3-ubyte.gz", np.random.default_rng(0).integers(0, 256, (30, 8, 8)))
    cut = tmp_path / "gz" / "train-images-idx3-ubyte.gz"
    cut.write_bytes(cut.read_bytes()[:500])
    write_idx(tmp_path / "odd" / "train-images-idx3-ubyte", np.zeros((3, 8, 8)))
    write_idx(tmp_path / "odd" / "train-labels-idx1-ubyte", np.zeros(2))
    for options, message in (
        ({"train_data_dir": str(tmp_path)}, "there are no image files in it"),
        ({"dataset_name": str(tmp_path / "notes.txt")}, "is no IDX, .parquet, .arrow, .tar file"),
        ({"dataset_name": str(tmp_path / "short")}, "train-images-idx3-ubyte is damaged: 182 bytes"),
        ({"dataset_name": str(tmp_path / "gz")}, r"train-images-idx3-ubyte\.gz is damaged"),
        ({"dataset_name": str(tmp_path / "odd")}, "2 labels for 3 images"),
        ({"dataset_name": str(tmp_path / "odd" / "train-labels-idx1-ubyte")}, "are these labels"),
    ):
        with pytest.raises(InputError, match=message):
            load(**options)


def test_what_is_no_dataset_is_named():
    with pytest.raises(InputError, match="dataset of type list"):
        images_of([1, 2], DataConfig(resolution=8))


def test_an_iterable_dataset_from_python_streams():
    dataset = as_dataset(image=pictures(12), label=["cat", "dog"] * 6).to_iterable_dataset()
    assert isinstance(dataset, IterableDataset)
    images = images_of(dataset, DataConfig(resolution=8))
    assert images.shape == (3, 8, 8)


def test_an_option_of_tables_is_refused_for_sources_that_are_none(tmp_path):
    array = np.stack([np.asarray(image.convert("L").resize((8, 8))) for image in pictures(3)])
    write_idx(tmp_path / "idx" / "train-images-idx3-ubyte", array)
    saved(tmp_path / "files", pictures(3))
    with zipfile.ZipFile(tmp_path / "files.zip", "w") as archive:
        for file in (tmp_path / "files").iterdir():
            archive.write(file, file.name)
    as_dataset(image=pictures(3)).save_to_disk(tmp_path / "saved")
    as_dataset(image=pictures(3)).to_parquet(tmp_path / "file.parquet")

    def refused(name, **option):
        with pytest.raises(InputError, match=f"{next(iter(option))}='x': has no effect with .*{name}.*leave it out"):
            load(dataset_name=str(tmp_path / name), **option)

    for name in ("files", "files.zip", "idx", "idx/train-images-idx3-ubyte"):
        refused(name, image_column="x")
        refused(name, dataset_config_name="x")
    for name in ("idx", "idx/train-images-idx3-ubyte"):
        refused(name, label_column="x")
    for name in ("saved", "file.parquet"):
        refused(name, dataset_config_name="x")
        refused(name, dataset_revision="x")
    for options in ({}, {"streaming": True}):
        with pytest.raises(InputError, match=r"image_column='x': has no effect with .*files.*has no columns"):
            load(train_data_dir=str(tmp_path / "files"), image_column="x", **options)
