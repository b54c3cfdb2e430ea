"""Streams whose workers die or have little shared memory, and data that changes or vanishes while it is used."""

import gc
import itertools
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import pictures, tiny_critic, tiny_generator
from PIL import Image
from test_streaming import numbered, stream, workers_besides

from hf_wgan import InputError, WGANTrainer, load_images
from hf_wgan.data import DataConfig, StreamedBatches


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, picture in enumerate(pictures(40, mode="L")):
        picture.save(tmp_path / "photos" / f"{number:03d}.png")
    return tmp_path / "photos"


def load(photos, **options):
    cache = str(photos.parent / "cache")
    streamed = {"dataloader_num_workers": 0, "shuffle_buffer_size": 4} if options.get("streaming") else {}
    more = {"channels": 1, "cache_dir": cache, **streamed, **options}
    return load_images(DataConfig(train_data_dir=str(photos), resolution=8, **more))


def trainer(images, config):
    return WGANTrainer(tiny_generator(), tiny_critic(), images, config)


def test_a_worker_that_is_killed_is_one_line():
    others = multiprocessing.active_children()
    batches = StreamedBatches(stream(numbered(24), dataloader_num_workers=2), 6, seed=0)
    next(batches)
    for worker in workers_besides(others):
        worker.kill()
    with pytest.raises(InputError, match=r"a process that decodes the stream has ended unexpectedly, .*lower dataload"):
        for _ in itertools.islice(batches, 100):
            pass


def test_workers_of_a_loader_that_nobody_holds_end_before_others_start():
    """Workers that inherit it print PyTorch's assertion, as where a cell of a notebook trains again."""
    others = multiprocessing.active_children()
    images = stream(numbered(24), dataloader_num_workers=1)
    gc.disable()
    try:
        for _ in range(3):
            batches = StreamedBatches(images, 6, seed=0)
            batches.circle = batches  # as a trainer has
            next(batches)
            del batches
            assert len(workers_besides(others)) == 1
    finally:
        gc.enable()


SMALL_SHARED_MEMORY = """
import sys
sys.path[:0] = {path!r}
import itertools
from test_streaming import StreamedBatches, pictures, stream

if __name__ == "__main__":
    images = [picture for n in range(8) for picture in pictures(1, seed=n, size=(256, 256))]
    batches = StreamedBatches(stream(images, resolution=256, dataloader_num_workers=2), 4, seed=0)
    print(sum(len(batch.images) for batch in itertools.islice(batches, 8)), "images")
"""


def test_workers_need_no_shared_memory():
    """A batch takes 786,432 bytes, and /dev/shm, as in many a container, has less."""
    here = Path(__file__).parent
    code = SMALL_SHARED_MEMORY.format(path=[str(here), str(here.parent)])
    mount = 'mount -t tmpfs -o size=300k none /dev/shm && touch /dev/shm/mounted && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", code]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if "ermission" in result.stderr or "ermitted" in result.stderr:
        pytest.skip("this user may not mount a small /dev/shm")
    assert result.stdout == "32 images\n", result.stderr


CHANGES = {
    "altered": lambda photos: Image.new("L", (8, 8), 9).save(photos / "003.png"),
    "removed": lambda photos: [path.unlink() for path in sorted(photos.iterdir())[:10]],
    "added": lambda photos: [Image.new("L", (8, 8), n).save(photos / f"z{n}.png") for n in range(10)],
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("what", CHANGES)
def test_data_that_changed_before_a_run_is_resumed_is_noticed(what, streaming, photos, tiny_config, tmp_path):
    config = {"max_train_steps": 2, "train_batch_size": 4}
    trainer(load(photos, streaming=streaming), tiny_config(**config)).train()
    trainer(load(photos, streaming=streaming), tiny_config(resume_from_checkpoint="latest", **config)).train()
    CHANGES[what](photos)
    with pytest.raises(InputError, match=r"is of another experiment: .*fingerprint is .*--allow_config_change"):
        trainer(load(photos, streaming=streaming), tiny_config(resume_from_checkpoint="latest", **config)).train()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_whose_data_vanishes_says_so(workers, photos):
    batches = StreamedBatches(load(photos, streaming=True, dataloader_num_workers=workers), 4, seed=0)
    next(batches)
    shutil.rmtree(photos)
    with pytest.raises(InputError, match=r"photos: .*(its data has been removed or changed|stream cannot be read)"):
        for _ in itertools.islice(batches, 100):
            pass


def test_a_decoded_set_needs_neither_its_data_nor_its_cache_any_more(photos, tiny_config):
    run = trainer(load(photos), tiny_config())
    run.step()
    shutil.rmtree(photos)
    shutil.rmtree(photos.parent / "cache")
    run.train()
    assert run.state.global_step == 4
