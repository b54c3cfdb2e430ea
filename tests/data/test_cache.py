import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import pictures
from datasets import Dataset, Features, Image

from hf_wgan import InputError, load_images
from hf_wgan.data import DataConfig, cache, images_of
from hf_wgan.data.decode import WITHOUT_EFFECT
from hf_wgan.data.sources import ArraySource
from hf_wgan.utils.errors import BadImageError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, picture in enumerate(pictures(6)):
        picture.save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def load(folder, tmp_path):
    def make(**options):
        options = {"train_data_dir": str(folder), "resolution": 8, "cache_dir": str(tmp_path / "cache"), **options}
        return load_images(DataConfig(**options))

    return make


def built(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir())


def decodings(monkeypatch):
    """Counts the pictures that are decoded from here on."""
    calls = []
    decode = cache.decode_or_error
    monkeypatch.setattr(cache, "decode_or_error", lambda *arguments: calls.append(1) or decode(*arguments))
    return calls


def test_pictures_are_decoded_once(load, tmp_path, monkeypatch):
    first = load()
    calls = decodings(monkeypatch)
    second = load()
    assert not calls
    assert torch.equal(first.images, second.images)
    assert first.fingerprint == second.fingerprint
    assert len(built(tmp_path)) == 1


@pytest.mark.parametrize(
    "change",
    [{"resolution": 16}, {"channels": 1}, {"background": "black"}, {"center_crop": False}, {"max_train_samples": 3}],
)
def test_a_changed_option_never_meets_a_stale_cache(change, load, tmp_path, monkeypatch):
    load()
    calls = decodings(monkeypatch)
    load(**change)
    assert calls
    assert len(built(tmp_path)) == 2


ACTING = {
    "background": ("black", lambda picture: picture.putalpha(128) or picture),
    "value_range": ("0,4095", lambda picture: PIL.Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16))),
    "center_crop": (False, lambda picture: picture.resize((16, 24))),
}
"""Values other than the defaults, and images on which they act."""


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_an_option_that_acts_on_no_image_is_named_in_a_line(name, load, folder, capsys):
    (value, changed), line = ACTING[name], f"{name}={ACTING[name][0]!r} has no effect: {WITHOUT_EFFECT[name]}."
    load(**{name: value})
    load(**{name: value})  # from the cache
    assert capsys.readouterr().err.count(line) == 2
    (picture,) = pictures(1, seed=9)
    changed(picture).save(folder / "another.png")
    load(**{name: value})
    load()
    assert "has no effect" not in capsys.readouterr().err


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_an_option_that_cannot_act_on_the_digits_is_refused(name):
    value, _ = ACTING[name]
    with pytest.raises(InputError, match=f"^{name}={value!r}: has no effect without dataset_name or train_data_dir$"):
        load_images(DataConfig(resolution=8, **{name: value}))


@pytest.mark.parametrize("change", ["replaced", "added", "removed"])
def test_a_changed_folder_never_meets_a_stale_cache(change, load, folder):
    before = load()
    (new,) = pictures(1, seed=9)
    if change == "removed":
        (folder / "3.png").unlink()
    else:
        new.save(folder / ("3.png" if change == "replaced" else "6.png"))
    after = load()
    assert len(after) == {"replaced": 6, "added": 7, "removed": 5}[change]
    assert after.fingerprint != before.fingerprint
    there = np.asarray(new).tolist() in after.images.permute(0, 2, 3, 1).tolist()
    assert there == (change != "removed")


def test_a_dataset_that_points_to_changed_files_never_meets_a_stale_cache(folder, tmp_path):
    def of_paths():
        paths = [str(path) for path in sorted(folder.iterdir())]
        dataset = Dataset.from_dict({"image": paths}, features=Features({"image": Image()}))
        return images_of(dataset, DataConfig(resolution=8, cache_dir=str(tmp_path / "cache")))

    before = of_paths()
    assert of_paths().fingerprint == before.fingerprint
    pictures(1, seed=9)[0].save(folder / "3.png")
    assert of_paths().fingerprint != before.fingerprint


def test_options_that_do_not_change_the_pixels_share_a_cache(load, tmp_path):
    load()
    load(random_flip=True, on_bad_image="error", max_bad_images=0.5, memory_limit_gb=1.0)
    assert len(built(tmp_path)) == 1


def test_the_order_and_fingerprint_are_those_of_the_content(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    shuffled = np.random.default_rng(1).permutation(20)
    sets = []
    for order in (np.arange(20), shuffled):
        source = ArraySource("array", pixels[order], order)
        how = cache.Preprocessing(8, 3)
        cached = cache.open_cache(source, how, True, str(tmp_path), False)
        sets.append((cached.fingerprint, cached.pixels[cached.order].tolist(), cached.labels[cached.order].tolist()))
    assert sets[0] == sets[1]


def test_grey_pictures_in_any_mode_make_a_set_of_one_channel(load, folder):
    assert load().shape == (3, 8, 8)
    for path, mode in zip(sorted(folder.iterdir()), ("L", "RGB", "RGBA", "1", "P", "LA")):
        pictures(1, "L")[0].convert(mode).save(path)
    assert load().shape == (1, 8, 8)
    pictures(1)[0].save(folder / "5.png")
    assert load().shape == (3, 8, 8)


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3)])
def test_channels_that_are_asked_for_and_those_left_to_the_data_give_the_same_set(
    mode, channels, load, folder, tmp_path, monkeypatch
):
    for number, picture in enumerate(pictures(6, mode)):
        picture.save(folder / f"{number}.png")

    def content(**options):
        images = load(**options)
        return images.shape, images.fingerprint, images.images.tolist()

    left_to_the_data = content()
    assert content(channels=channels, cache_dir=str(tmp_path / "other")) == left_to_the_data
    calls = decodings(monkeypatch)
    assert content(channels=channels) == left_to_the_data
    assert not calls
    assert content(channels=4 - channels) != left_to_the_data
    assert len(calls) == 6


def rewrite(name, change):
    """Returns a function that changes the content of a file of a cache."""

    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(change(content))

    return damage


def flipped(content):
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]


DAMAGES = {
    f"{name}, {what}": rewrite(name, change)
    for name in (cache.PIXELS, cache.INDEX, cache.INFO)
    for what, change in {
        "half of it": lambda content: content[: len(content) // 2],
        "empty": lambda content: b"",
        "a bit flipped": flipped,
        "zeros of the same size": lambda content: bytes(len(content)),
    }.items()
}
DAMAGES |= {f"{cache.INFO}, {text}": rewrite(cache.INFO, lambda _, text=text: text) for text in (b"[]", b"{}", b"null")}
DAMAGES |= {f"no {name}": lambda folder, name=name: (folder / name).unlink() for name in (cache.INDEX, cache.PIXELS)}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_said_and_built_again(damage, load, tmp_path, monkeypatch, capsys):
    good = load().images
    (name,) = built(tmp_path)
    DAMAGES[damage](tmp_path / "cache" / name)
    calls = decodings(monkeypatch)
    assert torch.equal(load().images, good)
    assert calls and "is damaged: the images are decoded again" in capsys.readouterr().err
    calls.clear()
    assert torch.equal(load().images, good) and not calls, "once"


def test_a_large_cache_is_checked_while_it_is_read(load, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CHECKED_AT_OPENING", 0)
    good = load().images[:].clone()
    (name,) = built(tmp_path)
    rewrite(cache.PIXELS, flipped)(tmp_path / "cache" / name)
    with pytest.raises(InputError, match="damaged"):
        load().images[:]
    assert torch.equal(load().images[:], good), "built again at the next start"


def test_a_complete_cache_may_lie_on_a_read_only_disk(load, monkeypatch):
    good = load().images

    def fail(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    for owner, name in [(cache, "FileLock"), (cache.shutil, "rmtree"), (Path, "mkdir"), (Path, "unlink")]:
        monkeypatch.setattr(owner, name, fail)
    assert torch.equal(load().images, good)


def test_other_content_of_the_same_size_and_time_never_meets_a_stale_cache(load, folder):
    """As after unzip, tar or rsync -a, which restore times."""
    path = folder / "0.png"
    pictures(1, seed=8)[0].save(path, "BMP")
    before = load().fingerprint
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    pictures(1, seed=9)[0].save(path, "BMP")
    os.utime(path, ns=times)
    assert load().fingerprint != before


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError(), OSError(5, "I/O error")])
def test_a_fault_of_reading_that_passes_is_not_remembered(error, load, monkeypatch):
    decode, count = cache.decode_or_error, iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "decode_or_error", lambda *given: error if next(count) == 2 else decode(*given))
        assert len(load()) == 5
    assert len(load()) == 6


BUILDER = """
import sys
from hf_wgan import load_images
from hf_wgan.data import DataConfig
print("ready", flush=True)
images = load_images(DataConfig(dataset_name=sys.argv[1], resolution=16, cache_dir=sys.argv[2]))
print(images.fingerprint, flush=True)
"""


@pytest.fixture
def idx_folder(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4000, 28, 28), np.uint8)
    (tmp_path / "idx").mkdir()
    header = bytes([0, 0, 8, 3]) + np.array(pixels.shape, ">u4").tobytes()
    (tmp_path / "idx" / "train-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    return tmp_path / "idx"


def test_two_processes_that_start_together_build_it_once(idx_folder, tmp_path):
    command = [sys.executable, "-c", BUILDER, str(idx_folder), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=200)[0].split() for process in processes]
    assert outputs[0] == outputs[1] and len(outputs[0]) == 2
    times = [path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*/*")]
    assert len(times) == 3, "one cache of three files"


def test_a_build_killed_at_any_moment_leaves_nothing_that_is_trusted_wrongly(idx_folder, tmp_path):
    """Twenty kills, spread over the build by forking here: a fresh interpreter would spend them on imports."""
    config = DataConfig(dataset_name=str(idx_folder), resolution=16, cache_dir=str(tmp_path / "cache"))
    whole = load_images(DataConfig(dataset_name=str(idx_folder), resolution=16, cache_dir=str(tmp_path / "whole")))
    began = time.monotonic()
    load_images(DataConfig(dataset_name=str(idx_folder), resolution=16, cache_dir=str(tmp_path / "timed")))
    duration = time.monotonic() - began

    rng = np.random.default_rng()
    killed = 0
    while killed < 20:
        child = os.fork()
        if child == 0:
            try:
                load_images(config)
            finally:
                os._exit(0)
        time.sleep(duration * rng.uniform(0, 1))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        else:
            duration *= 0.9  # it was faster than the one that was timed
        for place in (tmp_path / "cache").glob("[!.]*"):
            if place.is_dir():  # whatever bears a final name is whole
                opened = cache.opened(place)
                assert opened is not None and opened.fingerprint == whole.fingerprint
                shutil.rmtree(place)  # the next kill needs a build again
    images = load_images(config)
    assert images.fingerprint == whole.fingerprint
    assert torch.equal(images.images, whole.images)
    left = [path for path in Path(tmp_path / "cache").iterdir() if path.name.startswith(".") and path.is_dir()]
    assert not left, "the next build clears what was left"


def spoiled(folder):
    """Four bad files beside six good ones."""
    whole = (folder / "0.png").read_bytes()
    (folder / "bad-truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bad-empty.png").write_bytes(b"")
    (folder / "bad-text.png").write_text("not a picture")
    (folder / "bad-jpeg.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"\0" * 50)


def test_bad_pictures_are_named_once_and_left_out(load, folder, capsys):
    spoiled(folder)
    images = load(max_bad_images=0.5)
    assert len(images) == 6
    said = capsys.readouterr().err
    for name in ("bad-truncated.png", "bad-empty.png", "bad-text.png", "bad-jpeg.jpg"):
        assert said.count(name) == 1, said
    assert "4 of 10 images are bad and left out." in said
    load(max_bad_images=0.5)
    assert capsys.readouterr().err.count("bad-text.png") == 1, "a cache remembers them"


@pytest.mark.parametrize("cached", [False, True])
def test_on_bad_image_error_stops_at_the_first(cached, load, folder, tmp_path):
    spoiled(folder)
    if cached:
        load(max_bad_images=0.5)
    with pytest.raises(BadImageError, match=r"bad-empty\.png: it is empty; remove or replace it"):
        load(on_bad_image="error")
    assert len(built(tmp_path)) == cached


def test_too_many_bad_pictures_and_none_left_are_errors(load, folder):
    spoiled(folder)
    with pytest.raises(InputError, match=r"4 of 10 images are bad, more than max_bad_images=0\.3 allows"):
        load(max_bad_images=0.3)
    for number in range(6):
        (folder / f"{number}.png").unlink()
    with pytest.raises(InputError, match="there are no images in it that can be read"):
        load(max_bad_images=1.0)


def test_a_cache_folder_that_cannot_be_written_is_named(load, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cache_dir=.*; name another folder"):
        load(cache_dir=str(tmp_path / "file" / "cache"))


def test_the_record_of_a_cache_can_be_read(load, tmp_path):
    load()
    info = json.loads((tmp_path / "cache" / built(tmp_path)[0] / cache.INFO).read_text())
    assert info["num_pictures"] == 6
    assert info["bad"] == []
