"""Datasets by name, through the unmodified clients, from a Hub on loopback."""

import io
import json
import os
import subprocess
import sys
import zipfile

import pytest
from conftest import pictures
from datasets import ClassLabel, Dataset, Features, Image, Value
from hub_server import hub

CARD = b"""---
configs:
- config_name: big
  data_files:
  - {split: train, path: big/train.parquet}
- config_name: small
  data_files:
  - {split: train, path: small/train.parquet}
  - {split: test, path: small/test.parquet}
---
"""
CLASSES = ("bus", "car", "train")  # one of them is the name of a split
NUM_IMAGES = 9
LOADS = """
import hashlib, json, sys
from hf_wgan import InputError, load_images
from hf_wgan.data import DataConfig, StreamedBatches

def digest(pixels, label, names):
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16], None if label is None else names[int(label)]

def load(options):
    workers = {"dataloader_num_workers": 0} if options.get("streaming") else {}
    images = load_images(DataConfig(resolution=8, **workers, **options))
    if not options.get("streaming"):
        labels = [None] * len(images) if images.labels is None else images.labels
        content = [digest(*each, images.label_names) for each in zip(images.images, labels)]
    else:
        names, content = images.label_names, []  # which are learnt before the batches have them
        batches = StreamedBatches(images, 1, seed=0)
        for _ in range(options["max_train_samples"]):
            batch = next(batches)
            pixels = ((batch.images[0] + 1) * 127.5).round().byte()
            content.append(digest(pixels, None if batch.labels is None else batch.labels[0], names))
    return {"shape": images.shape, "content": sorted(content)}

for line in sys.stdin:
    try:
        answer = load(json.loads(line))
    except InputError as error:
        answer = str(error)
    print(json.dumps(answer), flush=True)
"""


def encoded(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return content.getvalue()


def parquet(images, labels=None, image=None, label=None):
    file = io.BytesIO()
    columns = {"image": images} if labels is None else {"image": images, "label": labels}
    features = Features({name: {"image": image or Image(), "label": label}[name] for name in columns})
    Dataset.from_dict(columns, features=features).to_parquet(file)
    return file.getvalue()


def repositories(endpoint):
    """Return the same nine images of three classes in every form that a repository may have."""
    images = [encoded(picture) for picture in pictures(NUM_IMAGES)]
    numbers = [number % 3 for number in range(NUM_IMAGES)]
    names = [CLASSES[number] for number in numbers]
    flat = {f"{number:02d}.png": image for number, image in enumerate(images)}
    of_classes = {f"{name}/{file}": image for name, (file, image) in zip(names, flat.items())}
    of_class = {name: {f: flat[f] for f, of in zip(flat, names) if of == name} for name in CLASSES}
    metadata = "".join(json.dumps({"file_name": f, "label": name}) + "\n" for f, name in zip(flat, names)).encode()
    addresses = [f"{endpoint}/datasets/me/files/resolve/main/{path}" for path in of_classes]
    return {
        "files": {**of_classes, "README.md": b"# Photos\n", ".gitattributes": b"*.png filter=lfs\n"},
        "metadata": {**flat, "metadata.jsonl": metadata},
        "zip": {"images.zip": zipped(of_classes)},
        "zips": {f"{name}.zip": zipped(files) for name, files in of_class.items()},
        "zip-metadata": {"data/images.zip": zipped(flat), "data/metadata.jsonl": metadata},
        "zip-with-metadata": {"train.zip": zipped({**flat, "metadata.jsonl": metadata})},
        "parquet": {
            "data/train-00000-of-00001.parquet": parquet(
                [{"bytes": image, "path": None} for image in images], numbers, label=ClassLabel(names=list(CLASSES))
            )
        },
        "addresses": {"train.parquet": parquet(addresses, names, image=Value("string"), label=Value("string"))},
    }


FORMS = list(repositories(""))


def process(environment):
    return subprocess.Popen(
        [sys.executable, "-c", LOADS],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def asked(loader, **options):
    loader.stdin.write(json.dumps({"dataset_name": "me/photos", **options}) + "\n")
    loader.stdin.flush()
    return json.loads(loader.stdout.readline())


@pytest.fixture(scope="module")
def server():
    photos = {"README.md": CARD, "big/train.parquet": parquet(pictures(9))}
    photos |= {"small/train.parquet": parquet(pictures(5)), "small/test.parquet": parquet(pictures(4))}
    changed = photos | {"small/train.parquet": parquet(pictures(6))}
    with hub({"datasets/me/photos": {"main": photos, "v2": changed}}) as server:
        for name, files in repositories(server.endpoint).items():
            server.put(f"datasets/me/{name}", files)
        yield server


@pytest.fixture(scope="module")
def loader(server):
    """A new process, whose clients know no other Hub than this one."""
    with process(server.environment()) as loader:
        yield loader
        loader.stdin.close()


@pytest.fixture(scope="module")
def expected(loader):
    return asked(loader, dataset_name="me/files")


def test_a_dataset_on_the_hub_by_name_configuration_split_and_revision(loader, server):
    def number(**options):
        answer = asked(loader, **options)
        assert answer["shape"] == [3, 8, 8]
        return len(answer["content"])

    assert number(dataset_config_name="big") == 9
    assert number(dataset_config_name="small") == 5
    assert number(dataset_config_name="small", dataset_split="test") == 4
    assert number(dataset_config_name="small", dataset_revision="v2") == 6
    assert any("/resolve/" in request and request.endswith("big/train.parquet") for request in server.requests)


def test_a_repository_of_image_files_is_the_folder_that_it_is(expected):
    assert len(expected["content"]) == NUM_IMAGES
    assert {name for _, name in expected["content"]} == set(CLASSES)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_images_and_labels_from_every_form_of_a_repository(form, streaming, loader, expected):
    options = {"streaming": True, "max_train_samples": NUM_IMAGES} if streaming else {}
    assert asked(loader, dataset_name=f"me/{form}", **options) == expected


def test_what_has_been_downloaded_is_opened_without_a_network(server, loader, expected):
    asked(loader, dataset_name="me/zips")
    with process({**server.environment(), "HF_HUB_OFFLINE": "1"}) as alone:
        before = len(server.requests)
        assert asked(alone, dataset_name="me/files") == expected
        assert asked(alone, dataset_name="me/zips") == expected
        assert len(server.requests) == before
        alone.stdin.close()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"dataset_name": "me/nothing"}, "dataset_name='me/nothing': cannot be loaded"),
        ({"dataset_config_name": "huge"}, "dataset_name='me/photos': cannot be loaded"),
        ({"dataset_config_name": "small", "dataset_split": "valid"}, "dataset_name='me/photos': cannot be loaded"),
        ({"dataset_revision": "v9"}, "dataset_name='me/photos': cannot be loaded"),
        ({}, "dataset_name='me/photos': cannot be loaded"),
    ],
)
def test_what_is_not_on_the_hub_is_one_clear_line(options, words, loader):
    said = asked(loader, **options)
    assert said.startswith(words) and "\n" not in said
