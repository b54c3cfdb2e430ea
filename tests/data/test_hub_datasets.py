"""Datasets by name, through the unmodified clients, from a Hub on loopback."""

import io
import os
import subprocess
import sys

import pytest
from conftest import pictures
from datasets import Dataset, Features, Image
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
LOAD = """
import sys
from hf_wgan import InputError, load_images
from hf_wgan.data import DataConfig, StreamedBatches
options = eval(sys.argv[1])
try:
    images = load_images(DataConfig(resolution=8, **options))
    if options.get("streaming"):
        print("stream", tuple(next(StreamedBatches(images, 3, seed=0)).images.shape))
    else:
        print(len(images), images.shape)
except InputError as error:
    print(error)
"""


def parquet(count):
    file = io.BytesIO()
    Dataset.from_dict({"image": pictures(count)}, features=Features({"image": Image()})).to_parquet(file)
    return file.getvalue()


@pytest.fixture(scope="module")
def load():
    """Loads in a new process, whose clients know no other Hub than this one."""
    files = {"README.md": CARD, "big/train.parquet": parquet(9)}
    files |= {"small/train.parquet": parquet(5), "small/test.parquet": parquet(4)}
    changed = files | {"small/train.parquet": parquet(6)}
    with hub({"datasets/me/photos": {"main": files, "v2": changed}}) as server:

        def make(**options):
            environment = {**os.environ, **server.environment()}
            command = [sys.executable, "-c", LOAD, repr({"dataset_name": "me/photos", **options})]
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200).stdout.strip()

        make.requests = server.requests
        yield make


def test_a_dataset_on_the_hub_by_name_configuration_split_and_revision(load):
    assert load(dataset_config_name="big") == "9 (3, 8, 8)"
    assert load(dataset_config_name="small") == "5 (3, 8, 8)"
    assert load(dataset_config_name="small", dataset_split="test") == "4 (3, 8, 8)"
    assert load(dataset_config_name="small", dataset_revision="v2") == "6 (3, 8, 8)"
    assert any("/resolve/" in request and request.endswith("big/train.parquet") for request in load.requests)


def test_a_dataset_on_the_hub_can_be_streamed(load):
    assert load(dataset_config_name="small", streaming=True, dataloader_num_workers=0) == "stream (3, 3, 8, 8)"


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
def test_what_is_not_on_the_hub_is_one_clear_line(options, words, load):
    said = load(**options)
    assert said.startswith(words) and "\n" not in said
