from collections import Counter

import numpy as np
import pytest
import torch
from conftest import pictures, tiny_images
from datasets import Dataset, Features, Image
from torch.utils._python_dispatch import TorchDispatchMode

from hf_wgan import ImageSet, InputError
from hf_wgan.data import DataConfig, RealBatches, images_of
from hf_wgan.data import batches as module


def drawn(batches, count):
    return [batches.indices(position).tolist() for position in range(count)]


def cached_images(tmp_path, sizes, resolution=8, **options):
    images = [image for number, size in enumerate(sizes) for image in pictures(1, size=size, seed=number)]
    dataset = Dataset.from_dict({"image": images}, features=Features({"image": Image()}))
    return images_of(dataset, DataConfig(resolution=resolution, cache_dir=str(tmp_path / "cache"), **options))


def test_an_epoch_visits_every_image_once():
    order = [index for batch in drawn(RealBatches(tiny_images(24), 5, seed=0), 24) for index in batch]
    for epoch in range(5):
        assert sorted(order[epoch * 24 : (epoch + 1) * 24]) == list(range(24))
    assert order[:24] != order[24:48]


def test_the_order_follows_from_the_seed_alone_and_can_be_entered_anywhere():
    one, other = (RealBatches(tiny_images(24), 5, seed=7) for _ in range(2))
    in_turn = drawn(one, 40)
    assert [other.indices(position).tolist() for position in reversed(range(40))] == in_turn[::-1]
    assert drawn(RealBatches(tiny_images(24), 5, seed=8), 40) != in_turn
    other.position = 13
    assert torch.equal(next(other).images, one.batch(13).images)
    assert torch.equal(one.batch(13).images, tiny_images(24).images[in_turn[13]].float() / 127.5 - 1)
    assert other.position == 14


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_share_a_batch_without_overlap_or_loss(num_processes):
    alone = drawn(RealBatches(tiny_images(24), 6, seed=0), 20)
    shared = [
        drawn(RealBatches(tiny_images(24), 6 // num_processes, 0, "cpu", num_processes, index), 20)
        for index in range(num_processes)
    ]
    assert [[index for part in parts for index in part] for parts in zip(*shared)] == alone


def test_batches_are_normalised_on_the_way():
    images = tiny_images(24, channels=3)
    batch = next(RealBatches(images, 24, seed=0)).images
    assert (batch.shape, batch.dtype) == ((24, 3, 8, 8), torch.float32)
    assert (batch.min(), batch.max()) == (-1, 1)
    restored = ((batch + 1) * 127.5).round().to(torch.uint8)
    assert sorted(restored.flatten(1).tolist()) == sorted(images.images.flatten(1).tolist())


def test_labels_travel_with_their_images():
    pixels = torch.arange(24, dtype=torch.uint8)[:, None, None, None].expand(24, 1, 8, 8)
    batches = RealBatches(ImageSet(pixels, labels=torch.arange(24) * 10), 7, seed=0)
    for _ in range(5):
        batch = next(batches)
        assert torch.equal(((batch.images[:, 0, 0, 0] + 1) * 127.5).round().long() * 10, batch.labels)
    assert next(RealBatches(tiny_images(), 7, seed=0)).labels is None


def test_images_go_to_a_device_a_block_at_a_time(monkeypatch):
    images, blocks = tiny_images(25, channels=3), []
    gather = images.gather
    monkeypatch.setattr(images, "gather", lambda numbers, crops: blocks.append(len(numbers)) or gather(numbers, crops))
    monkeypatch.setattr(module, "BLOCK_BYTES", 7 * 3 * 8 * 8)
    copy = module.copied(images, torch.device("cpu"))
    assert max(blocks) <= 7 and sum(blocks) == 25
    assert torch.equal(copy, images.images) and copy.stride() == images.images.stride()
    blocks.clear()
    RealBatches(images, 4, seed=0, device="meta")
    assert sum(blocks) == 25 and max(blocks) <= 7, "a device gets them this way"


def test_every_image_comes_equally_often():
    counts = Counter(index for batch in drawn(RealBatches(tiny_images(24), 7, 0), 240) for index in batch)
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("batch_size, num_processes", [(25, 1), (13, 2), (0, 1)])
def test_a_batch_larger_than_the_dataset_is_refused(batch_size, num_processes):
    with pytest.raises(InputError, match=rf"train_batch_size={batch_size}.*the number of images, 24"):
        RealBatches(tiny_images(24), batch_size, 0, "cpu", num_processes)


def test_random_flips_mirror_half_of_the_images_and_follow_from_the_seed():
    images = tiny_images(24)
    flipping = ImageSet(images.images, config=DataConfig(random_flip=True))
    plain, flipped, again = (RealBatches(each, 24, seed=0) for each in (images, flipping, flipping))
    mirrored = 0
    for position in range(20):
        one, other = plain.batch(position).images, flipped.batch(position).images
        for image, perhaps in zip(one, other):
            assert torch.equal(perhaps, image) or torch.equal(perhaps, image.flip(2))
            mirrored += not torch.equal(perhaps, image)
        assert torch.equal(other, again.batch(position).images)
    assert 0.4 < mirrored / 480 < 0.6


def test_an_image_is_flipped_alike_whichever_process_it_comes_to():
    flipping = ImageSet(tiny_images(24).images, config=DataConfig(random_flip=True))
    alone = RealBatches(flipping, 6, seed=0)
    shared = [RealBatches(flipping, 3, 0, "cpu", 2, index) for index in range(2)]
    for position in range(10):
        parts = torch.cat([batches.batch(position).images for batches in shared])
        assert torch.equal(parts, alone.batch(position).images)


def test_random_crops_are_squares_of_the_image_and_differ_from_time_to_time(tmp_path):
    images = cached_images(tmp_path, [(16, 8)] * 3 + [(8, 8), (8, 24)], center_crop=False)
    assert not images.is_square
    batches = RealBatches(images, 5, seed=0)
    wholes = [
        torch.tensor(np.asarray(p))
        for n, s in enumerate([(16, 8)] * 3 + [(8, 8), (8, 24)])
        for p in pictures(1, size=s, seed=n)
    ]
    windows = {
        bytes(whole[top : top + 8, left : left + 8].numpy().tobytes())
        for whole in wholes
        for top in range(whole.shape[0] - 7)
        for left in range(whole.shape[1] - 7)
    }
    seen = set()
    for position in range(30):
        for image in ((batches.batch(position).images + 1) * 127.5).round().to(torch.uint8):
            seen.add(image.permute(1, 2, 0).contiguous().numpy().tobytes())
    assert seen <= windows
    assert len(seen) > 20
    assert torch.equal(batches.batch(3).images, RealBatches(images, 5, seed=0).batch(3).images)


@pytest.mark.parametrize("center_crop", [True, False])
def test_a_set_over_the_memory_limit_gives_the_same_batches(center_crop, tmp_path):
    sizes = [(8, 8), (16, 8), (8, 12), (20, 10)] * 3
    small = cached_images(tmp_path, sizes, center_crop=center_crop)
    large = cached_images(tmp_path, sizes, center_crop=center_crop, memory_limit_gb=1e-7)
    released = []
    release = large.release
    large.release = lambda: released.append(release())
    inside, outside = RealBatches(small, 5, seed=0), RealBatches(large, 5, seed=0)
    for _ in range(12):
        assert torch.equal(next(inside).images, next(outside).images)
    assert released
    outside.position = 2  # back in the middle
    assert torch.equal(next(outside).images, inside.batch(2).images)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_set_that_lies_on_the_device_gives_the_same_batches(num_processes):
    images = ImageSet(tiny_images(24).images, labels=torch.arange(24), config=DataConfig(random_flip=True))
    for process in range(num_processes):
        share = images, 5, 3, "cpu", num_processes, process
        there, here = RealBatches(*share, resident=True), RealBatches(*share)
        for position in [*range(20), 3, 40]:
            for one, other in zip(there.batch(position), here.batch(position)):
                assert torch.equal(one, other) and one.stride() == other.stride()


class Copies(TorchDispatchMode):
    """Counts the tensors that come from the CPU to another device."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [tensor for tensor in (*args, result) if isinstance(tensor, torch.Tensor)]
        self.number += len({tensor.device.type for tensor in tensors}) > 1
        return result


def test_only_the_order_of_an_epoch_is_copied_to_the_device():
    images = ImageSet(tiny_images(24).images, labels=torch.arange(24), config=DataConfig(random_flip=True))
    batches = RealBatches(images, 6, seed=0, device="meta")
    for position in range(8):
        with Copies() as copies:
            assert next(batches).images.device.type == "meta"
        assert copies.number == (2 if position % 4 == 0 else 0), "numbers, and which are mirrored"
