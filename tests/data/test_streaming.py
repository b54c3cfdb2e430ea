import gc
import itertools
import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import pictures, tiny_images
from datasets import Dataset, Features, Image, Value

from hf_wgan import InputError, load_images
from hf_wgan.data import DataConfig, ImageStream, RealBatches, StreamedBatches, images_of
from hf_wgan.utils.errors import BadImageError


def stream(images, num_shards=4, **options):
    features = Features({"image": Image(), "number": Value("int64")})
    dataset = Dataset.from_dict({"image": images, "number": range(len(images))}, features=features)
    config = DataConfig(**{"resolution": 8, "label_column": "number", "dataloader_num_workers": 0, **options})
    return images_of(dataset.to_iterable_dataset(num_shards=num_shards), config)


def workers_besides(others):
    """Those of a test before may still be ending."""
    return [worker for worker in multiprocessing.active_children() if worker not in others]


def numbers(batches, count):
    return [number for batch in itertools.islice(batches, count) for number in batch.labels.tolist()]


def numbered(count):
    return [picture for number in range(count) for picture in pictures(1, seed=number)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_every_image_once_with_its_label(workers):
    batches = StreamedBatches(stream(numbered(24), dataloader_num_workers=workers), 6, seed=0)
    images, labels = zip(*itertools.islice(batches, 4))
    labels = torch.cat(labels).tolist()
    assert sorted(labels) == list(range(24))
    assert labels != list(range(24)), "shuffled"
    for image, label in zip(torch.cat(images), labels):
        pixels = ((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
        assert pixels.contiguous().numpy().tobytes() == pictures(1, seed=label)[0].tobytes()


def test_a_stream_has_no_end_and_another_order_in_each_epoch():
    drawn = numbers(StreamedBatches(stream(numbered(24)), 6, seed=0), 12)
    epochs = [drawn[start : start + 24] for start in (0, 24, 48)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_same_seed_gives_the_same_stream_and_position_skips():
    one, other, third = (StreamedBatches(stream(numbered(24)), 6, seed=seed) for seed in (0, 0, 1))
    in_turn = [next(one).labels.tolist() for _ in range(6)]
    assert [next(third).labels.tolist() for _ in range(6)] != in_turn
    other.position = 4
    assert next(other).labels.tolist() == in_turn[4]
    assert next(other).labels.tolist() == in_turn[5]


def test_class_labels_are_those_drawn_so_far_also_after_the_position_is_set():
    batches, resumed = (StreamedBatches(stream(numbered(24)), 6, seed=0) for _ in range(2))
    assert batches.class_labels is None
    drawn = numbers(batches, 3)
    resumed.position = 3
    assert batches.class_labels.tolist() == drawn == resumed.class_labels.tolist()
    assert numbers(batches, 2) == numbers(resumed, 2), "the next batches are the same"


@pytest.mark.parametrize("kind", ["set", "stream", "stream of a worker"])
def test_batches_are_entered_anywhere_forward_and_backward(kind):
    if kind == "set":
        batches = RealBatches(tiny_images(24), 6, seed=0)
    else:
        images = stream(numbered(24), dataloader_num_workers=int("worker" in kind), random_flip=True)
        batches = StreamedBatches(images, 6, seed=0)
    before = torch.get_rng_state()
    in_turn = [next(batches).images for _ in range(7)]
    for position in (3, 3, 6, 5, 0, 1):  # after one of each, the next is one further
        batches.go_to(6 * position)
        if kind != "set" and position:
            assert len(batches.class_labels) == 6 * position
        assert torch.equal(next(batches).images, in_turn[position])
    assert torch.equal(torch.get_rng_state(), before), "it takes no number of anyone else's"
    others = multiprocessing.active_children()
    assert kind == "set" or len(others) <= 1, "the workers of what was read before have ended"


@pytest.mark.parametrize("num_shards", [1, 4])
def test_processes_share_a_stream_without_overlap(num_shards):
    images = numbered(24)
    parts = [numbers(StreamedBatches(stream(images, num_shards), 6, 0, "cpu", 2, index), 2) for index in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(24))


def test_channels_follow_the_first_pictures():
    assert stream(pictures(12, "L")).shape == (1, 8, 8)
    assert stream(pictures(12)).shape == (3, 8, 8)
    assert stream(pictures(12, "L"), channels=3).shape == (3, 8, 8)


def test_crops_are_random_squares():
    batches = StreamedBatches(stream(pictures(1, size=(24, 8)) * 12, center_crop=False), 12, seed=0)
    crops = {image.numpy().tobytes() for image in next(batches).images}
    assert len(crops) > 3


def with_bad(good, bad):
    broken = {"bytes": b"not a picture", "path": None}
    return [broken if number < bad else picture for number, picture in enumerate(numbered(good + bad))]


def test_bad_pictures_of_a_stream_are_named_once_and_left_out(capfd):
    batches = StreamedBatches(stream(with_bad(22, 2)), 11, seed=0)
    assert sorted(numbers(batches, 2)) == list(range(2, 24))
    next(batches)
    said = capfd.readouterr().err
    assert said.count("it is no picture that PIL knows") == 2, said


@pytest.mark.parametrize("workers", [0, 2])
def test_on_bad_image_error_stops_a_stream(workers):
    batches = StreamedBatches(stream(with_bad(22, 2), on_bad_image="error", dataloader_num_workers=workers), 6, seed=0)
    with pytest.raises(BadImageError, match="it is no picture that PIL knows; remove or replace it"):
        numbers(batches, 4)


def test_too_many_bad_pictures_stop_a_stream():
    batches = StreamedBatches(stream(with_bad(80, 40), max_bad_images=0.1), 6, seed=0)
    with pytest.raises(InputError, match="images are bad, more than max_bad_images="):
        numbers(batches, 20)


def test_a_stream_without_a_good_picture_or_a_full_batch_is_an_error():
    with pytest.raises(InputError, match="not one of the first 12 images can be read"):
        stream(with_bad(0, 12))
    with pytest.raises(InputError, match="fewer images than a batch"):
        next(StreamedBatches(stream(pictures(1), num_shards=1), 6, seed=0, num_processes=2, process_index=1))


def test_a_folder_and_a_saved_dataset_can_be_streamed(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, picture in enumerate(pictures(12)):
        picture.save(tmp_path / "photos" / f"{number}.png")
    Dataset.from_dict({"image": pictures(12)}, features=Features({"image": Image()})).save_to_disk(tmp_path / "saved")
    for source in ({"train_data_dir": str(tmp_path / "photos")}, {"dataset_name": str(tmp_path / "saved")}):
        images = load_images(DataConfig(resolution=8, streaming=True, dataloader_num_workers=0, **source))
        assert isinstance(images, ImageStream)
        assert next(StreamedBatches(images, 12, seed=0)).images.shape == (12, 3, 8, 8)


def test_workers_outlive_a_signal_to_all_and_end_when_their_own_process_says_so():
    others = multiprocessing.active_children()
    batches = StreamedBatches(stream(numbered(24), dataloader_num_workers=2), 6, seed=0)
    workers = workers_besides(others)
    assert len(workers) == 2
    for when in ("while they start", "later"):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            for worker in workers:
                subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
        assert len(numbers(batches, 8)) == 48, when
    for worker in workers:
        worker.terminate()
        worker.join(timeout=60)
        assert worker.exitcode == 0


def test_a_stream_that_raised_takes_its_workers_with_it():
    options = {"on_bad_image": "error", "dataloader_num_workers": 2}
    others = multiprocessing.active_children()
    batches = StreamedBatches(stream(with_bad(22, 2), **options), 6, seed=0)
    with pytest.raises(BadImageError):
        numbers(batches, 4)
    assert len(workers_besides(others)) == 2
    gc.disable()
    try:
        del batches
        assert not workers_besides(others), "without a search for circles"
    finally:
        gc.enable()


KEPT = """
from test_streaming import StreamedBatches, numbered, stream

def fail():
    batches = StreamedBatches(stream(numbered(24), dataloader_num_workers=2), 6, seed=0)
    next(batches)
    raise RuntimeError("with a stream at hand")

if __name__ == "__main__":
    try:
        fail()
    except RuntimeError as error:
        kept = error  # and with it the frame, and the stream in it
"""


def test_a_process_ends_with_its_stream_still_there():
    here = Path(__file__).parent
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(here), str(here.parent)]!r}\n{KEPT}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        _, said = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 0, said
