"""Images in cells of tables, of every type that people use, and the files that a cell may name."""

import functools
import http.server
import io
import os
import re
import threading
import zipfile

import numpy as np
import pytest
import torch
from conftest import pictures
from datasets import (
    Array2D,
    Array3D,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    List,
    Value,
    load_dataset,
)
from datasets import Image as ImageFeature

from hf_wgan import InputError, load_images
from hf_wgan.data import DataConfig, StreamedBatches, images_of

PICTURES = pictures(8)
ARRAYS = np.stack([np.asarray(picture) for picture in PICTURES])
CONTENTS = sorted(ARRAYS.transpose(0, 3, 1, 2).reshape(8, -1).tolist())


def png(picture):
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()


def written(folder):
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(PICTURES):
        picture.save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(8)]


def load(dataset, **options):
    options = {"resolution": 8, "dataloader_num_workers": 0, **options}
    images = images_of(dataset, DataConfig(**options))
    if isinstance(dataset, IterableDataset):
        batch = next(StreamedBatches(images, 8, seed=0))
        return ((batch.images + 1) * 127.5).round().int().flatten(1).tolist(), batch.labels, images
    return images.images.flatten(1).tolist(), images.labels, images


COLUMNS = {
    "images": lambda folder: ([*PICTURES], ImageFeature()),
    "undecoded images": lambda folder: ([*PICTURES], ImageFeature(decode=False)),
    "bytes": lambda folder: ([png(picture) for picture in PICTURES], Value("binary")),
    "large bytes": lambda folder: ([png(picture) for picture in PICTURES], Value("large_binary")),
    "records": lambda folder: (
        [{"bytes": png(picture), "path": "x.png"} for picture in PICTURES],
        {"bytes": Value("binary"), "path": Value("string")},
    ),
    "paths": lambda folder: (written(folder), Value("string")),
    "large paths": lambda folder: (written(folder), Value("large_string")),
    "paths as images": lambda folder: (written(folder), ImageFeature()),
    "arrays": lambda folder: (list(ARRAYS), Array3D((8, 8, 3), "uint8")),
    "arrays, channels first": lambda folder: (list(ARRAYS.transpose(0, 3, 1, 2)), Array3D((3, 8, 8), "uint8")),
    "float arrays": lambda folder: (list((ARRAYS / 255).astype(np.float32)), Array3D((8, 8, 3), "float32")),
    "nested lists": lambda folder: (ARRAYS.tolist(), List(List(List(Value("uint8"))))),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("column", COLUMNS)
def test_every_type_of_column_gives_the_same_images(column, named, streaming, tmp_path):
    values, feature = COLUMNS[column](tmp_path / "files")
    features = Features({"id": Value("int64"), "photo": feature, "text": Value("string")})
    dataset = Dataset.from_dict({"id": range(8), "photo": values, "text": ["a caption"] * 8}, features=features)
    if streaming:
        dataset = dataset.to_iterable_dataset()
    assert sorted(load(dataset, image_column="photo" if named else None)[0]) == CONTENTS


@pytest.mark.parametrize("kind", ["paths", "large paths", "paths as images"])
def test_files_that_a_table_names_are_read_again_once_they_have_changed(kind, tmp_path):
    values, feature = COLUMNS[kind](tmp_path / "files")
    dataset = Dataset.from_dict({"photo": values}, features=Features({"photo": feature}))
    assert sorted(load(dataset)[0]) == CONTENTS
    others = pictures(8, seed=1)
    for path, picture in zip(values, others):
        picture.save(path)
    assert sorted(load(dataset)[0]) == sorted(np.asarray(other).transpose(2, 0, 1).ravel().tolist() for other in others)


def test_a_grey_array_column_has_one_channel():
    grey = list(ARRAYS[..., 0])
    dataset = Dataset.from_dict({"x": grey}, features=Features({"x": Array2D((8, 8), "uint8")}))
    assert load(dataset)[2].shape == (1, 8, 8)


def labelled():
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"image": PICTURES, "label": [0, 1] * 4}, features=features)


@pytest.mark.parametrize("form", ["torch", "numpy", "pandas", "arrow"])
def test_the_format_of_a_dataset_does_not_matter(form):
    pixels, labels, _ = load(labelled().with_format(form))
    assert sorted(pixels) == CONTENTS and sorted(labels.tolist()) == [0] * 4 + [1] * 4


@pytest.mark.parametrize("other", [True, False])
def test_a_transform_is_not_applied_and_that_is_said(other, capsys):
    def to_tensors(rows):
        tensors = [torch.zeros(3, 4, 4) for _ in rows["image"]]
        return {"input": tensors} if other else {**rows, "image": tensors}

    assert sorted(load(labelled().with_transform(to_tensors))[0]) == CONTENTS
    assert "its transform (set_transform, with_transform) is not applied" in capsys.readouterr().err


STREAMS = {
    "after map": lambda: labelled().to_iterable_dataset().map(lambda row: {**row, "more": 1}),
    "after a map of images": lambda: labelled().to_iterable_dataset().map(
        lambda row: {"image": row["image"].convert("RGB"), "label": row["label"]}
    ),
    "of a generator": lambda: IterableDataset.from_generator(
        lambda: ({"image": picture, "label": "ab"[number % 2]} for number, picture in enumerate(PICTURES))
    ),
    "of a generator of arrays": lambda: IterableDataset.from_generator(
        lambda: ({"image": array, "label": number % 2} for number, array in enumerate(ARRAYS))
    ),
    "after a map to tensors": lambda: labelled().to_iterable_dataset().map(
        lambda row: {"image": torch.from_numpy(np.array(row["image"])), "label": row["label"]}
    ),
    "after a map to lists": lambda: labelled().to_iterable_dataset().map(
        lambda row: {"image": np.asarray(row["image"]).tolist(), "label": row["label"]}
    ),
    "with arrays beside the images": lambda: IterableDataset.from_generator(
        lambda: (
            {"image": picture, "label": "ab"[number % 2], "mask": array, "boxes": [[0, 0, 1, 1]]}
            for number, (picture, array) in enumerate(zip(PICTURES, ARRAYS))
        )
    ),
    "of tensors": lambda: labelled().to_iterable_dataset().with_format("torch"),
    "filtered": lambda: labelled().to_iterable_dataset().filter(lambda row: True),
    "text labels": lambda: labelled().cast_column("label", Value("string")).to_iterable_dataset(),
}  # fmt: skip


@pytest.mark.parametrize("kind", STREAMS)
def test_streams_of_any_making(kind):
    pixels, labels, images = load(STREAMS[kind](), label_column="label")
    assert sorted(pixels) == CONTENTS
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4
    assert len(images.label_names) == 2
    assert len(load(STREAMS[kind]())[2].label_names) == 2, "found by its name"


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy, np.ndarray.tolist])
def test_several_images_in_a_row_of_a_stream_are_no_image_beside_one(convert):
    rows = [{"image": convert(array), "views": [convert(array)] * 2, "box": [0.0, 1.0]} for array in ARRAYS]
    stream = IterableDataset.from_generator(lambda: iter(rows))
    assert sorted(load(stream)[0]) == CONTENTS


def test_paths_in_a_stream_without_types_are_found(tmp_path):
    rows = [f"{path},a caption" for path in written(tmp_path / "files")]
    (tmp_path / "list.csv").write_text("\n".join(["photo,text", *rows]))
    stream = load_dataset("csv", data_files=str(tmp_path / "list.csv"), split="train", streaming=True)
    assert sorted(load(stream)[0]) == CONTENTS


def test_unlabelled_images_of_a_stream_are_left_out_where_classes_are_asked_for():
    values = [0, 1, -1, None, 1, 0, -1, 1]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    dataset = Dataset.from_dict({"image": PICTURES, "label": values}, features=features).to_iterable_dataset()
    images = images_of(dataset, DataConfig(resolution=8, dataloader_num_workers=0))
    assert sorted(next(StreamedBatches(images, 8, seed=0)).labels.tolist()) == [-1, -1, -1, 0, 0, 1, 1, 1]
    batches = StreamedBatches(images.labelled(), 5, seed=0)
    for _ in range(3):
        assert sorted(next(batches).labels.tolist()) == [0, 0, 1, 1, 1]


@pytest.fixture
def website(tmp_path):
    folder = tmp_path / "web"
    written(folder)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("feature", [Value("string"), ImageFeature()])
def test_addresses_are_read(feature, website, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    addresses = [f"{website}/{number}.png" for number in range(8)]
    dataset = Dataset.from_dict({"image": addresses}, features=Features({"image": feature}))
    assert sorted(load(dataset)[0]) == CONTENTS
    gone = Dataset.from_dict({"image": [*addresses, f"{website}/none.png"]}, features=Features({"image": feature}))
    images = load(gone)[2]
    assert (len(images), images.left_out.total()) == (8, 1)


def parquet(path, paths, folder=None):
    """A parquet file whose cells are four images and these paths."""
    cells = [{"bytes": png(picture), "path": None} for picture in PICTURES[:4]]
    cells += [{"bytes": None, "path": path} for path in paths]
    features = Features({"image": {"bytes": Value("binary"), "path": Value("string")}})
    Dataset.from_dict({"image": cells}, features=features).to_parquet(path)
    return path


@pytest.mark.parametrize("streaming", [False, True])
def test_a_cell_names_files_inside_its_dataset_only(streaming, tmp_path, capfd):
    folder, outside = tmp_path / "set", tmp_path / "outside"
    written(outside)
    inside = written(folder)
    (folder / "link.png").symlink_to(outside / "6.png")
    with zipfile.ZipFile(outside / "a.zip", "w") as archive:
        archive.write(outside / "6.png", "6.png")
    named = [
        inside[4],
        "5.png",
        str(outside / "6.png"),
        f"file://{outside / '6.png'}",
        "../outside/7.png",
        str(folder / ".." / "outside" / "7.png"),
        "link.png",
        f"zip://6.png::{outside / 'a.zip'}",
        "memory://x.png",
        f"local://{outside / '6.png'}",
        f"simplecache::file://{outside / '6.png'}",
        "/dev/zero",
        "/proc/self/environ",
    ]
    path = parquet(folder / "data.parquet", named)
    options = {"dataset_name": str(path), "resolution": 8, "streaming": streaming, "max_bad_images": 1.0}
    workers = {"dataloader_num_workers": 0} if streaming else {}
    images = load_images(DataConfig(**options, **workers))
    if streaming:
        batch = next(StreamedBatches(images, 6, seed=0))
        pixels = ((batch.images + 1) * 127.5).round().int().flatten(1).tolist()
    else:
        assert len(images) == 6
        pixels = images.images.flatten(1).tolist()
    expected = ARRAYS.transpose(0, 3, 1, 2).reshape(8, -1)[:6].tolist()
    assert sorted(pixels) == sorted(expected)


@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_what_is_no_regular_file_never_hangs(kind, tmp_path):
    places = {"device": "/dev/zero", "pipe": str(tmp_path / "pipe.png"), "folder": str(tmp_path)}
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    cells = [*written(tmp_path / "files"), places[kind], str(tmp_path / "endless.png")]
    dataset = Dataset.from_dict({"image": cells}, features=Features({"image": ImageFeature()}))
    images = load(dataset)[2]
    assert (len(images), images.left_out.total()) == (8, 2)


@pytest.mark.parametrize(
    "column, feature, value",
    [
        ("images", List(ImageFeature()), [PICTURES[0]] * 2),
        ("pixel0", Value("int64"), 3),
        ("pixels", List(Value("uint8")), [3] * 784),
        ("text", Value("string"), "hi"),
    ],
)
def test_columns_that_hold_no_image_per_row_are_named(column, feature, value):
    dataset = Dataset.from_dict({column: [value] * 3}, features=Features({column: feature}))
    for options in ({}, {} if column == "text" else {"image_column": column}):
        with pytest.raises(InputError, match=rf"image.column.*its columns are {column}") as caught:
            load(dataset, **options)
        hints = {"images": "images holds lists: make it one image per row", "pixels": r"if pixels holds .* \(H, W\)"}
        assert re.search(hints.get(column, ""), str(caught.value))


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_are_listed_with_their_types_and_a_table_of_pixels_in_one_short_line(streaming):
    dataset = Dataset.from_dict({"label": [1], **{f"pixel{number}": [0] for number in range(784)}})
    if streaming:
        dataset = dataset.to_iterable_dataset().map(lambda row: row)
    with pytest.raises(InputError, match=r"its columns are label \(int(64)?\), pixel0 .*, and 765 more") as caught:
        load(dataset)
    assert len(str(caught.value)) < 500


def idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same twenty images and ten others in every container."""
    folder = tmp_path_factory.mktemp("sources")
    grey = np.arange(30, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    features = Features({"image": ImageFeature()})
    from PIL import Image

    rows = [Image.fromarray(array) for array in grey]
    train, test = (Dataset.from_dict({"image": part}, features=features) for part in (rows[:20], rows[20:]))
    for name, split, count in (("train", train, 20), ("test", test, 10)):
        (folder / "parquet").mkdir(exist_ok=True)
        split.to_parquet(folder / "parquet" / f"{name}-00000-of-00001.parquet")
        for number in range(count):
            path = folder / "folder" / name / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            split[number]["image"].save(path)
    DatasetDict(train=train, test=test).save_to_disk(folder / "saved")
    train.save_to_disk(folder / "alone")
    idx(folder / "idx" / "train-images-idx3-ubyte", grey[:20])
    idx(folder / "idx" / "t10k-images-idx3-ubyte", grey[20:])
    idx(folder / "dotted" / "train-images.idx3-ubyte", grey[:20])
    idx(folder / "dotted" / "train-labels.idx1-ubyte", np.arange(20) % 3)
    idx(folder / "emnist" / "emnist-letters-train-images-idx3-ubyte", grey[:20])
    return folder


def values(folder, **options):
    option = "train_data_dir" if folder.name == "folder" else "dataset_name"
    images = load_images(DataConfig(**{option: str(folder), "resolution": 8, **options}))
    return sorted(images.images[:, 0, 0, 0].tolist())


@pytest.mark.parametrize(
    "split, expected",
    [
        ("train[:50%]", range(10)),
        ("train[:8]", range(8)),
        ("train[-10%:]", [18, 19]),
        ("train[5:7]", [5, 6]),
        ("train[90%:]+test[:2]", [18, 19, 20, 21]),
        ("train+test", range(30)),
        ("test", range(20, 30)),
    ],
)
@pytest.mark.parametrize("name", ["parquet", "saved", "idx", "folder", "alone"])
def test_parts_of_splits_are_written_alike_for_every_source(name, split, expected, sources):
    if name == "alone" and "test" in split:
        return
    assert values(sources / name, dataset_split=split) == list(expected)


def test_parts_of_streams_are_counted_in_rows(sources):
    options = {"dataset_name": str(sources / "parquet"), "resolution": 8, "streaming": True}
    images = load_images(DataConfig(dataset_split="train[5:9]", dataloader_num_workers=0, **options))
    batch = next(StreamedBatches(images, 4, seed=0)).images
    assert sorted(((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()) == [5, 6, 7, 8]
    with pytest.raises(InputError, match=r"dataset_split='train\[:50%\]': the length of a stream is not known"):
        load_images(DataConfig(dataset_split="train[:50%]", **options))


@pytest.mark.parametrize("split", ["train[:50", "train[a:b]", "train[5]", "[:5]"])
def test_parts_that_are_written_otherwise_are_refused(split, sources):
    with pytest.raises(InputError, match=r"dataset_split=.*: must be a name, or a part"):
        values(sources / "idx", dataset_split=split)


def test_idx_files_under_all_their_names(sources, tmp_path):
    dotted = load_images(DataConfig(dataset_name=str(sources / "dotted"), resolution=8))
    assert torch.equal(dotted.labels, dotted.images[:, 0, 0, 0].long() % 3)
    by_file = load_images(DataConfig(dataset_name=str(sources / "dotted" / "train-images.idx3-ubyte"), resolution=8))
    assert by_file.fingerprint == dotted.fingerprint and torch.equal(by_file.labels, dotted.labels)
    assert values(sources / "emnist") == list(range(20))
    for content in (b"\x1f\x8b", b"\x1f\x8b\x08", b"", b"\0"):
        (tmp_path / "x.gz").write_bytes(content)
        with pytest.raises(InputError, match="is no IDX"):
            load_images(DataConfig(dataset_name=str(tmp_path / "x.gz"), resolution=8))
