from collections import Counter

import pytest
import torch
from conftest import tiny_images

from hf_wgan import InputError
from hf_wgan.data import RealBatches


def drawn(batches, count):
    return [batches.indices(position).tolist() for position in range(count)]


def test_an_epoch_visits_every_image_once():
    batches = RealBatches(tiny_images(24), batch_size=5, seed=0)
    order = [index for batch in drawn(batches, 24 * 5 // 5) for index in batch]
    for epoch in range(5):
        assert sorted(order[epoch * 24 : (epoch + 1) * 24]) == list(range(24))
    assert order[:24] != order[24:48]


def test_the_order_follows_from_the_seed_alone_and_can_be_entered_anywhere():
    one, other = (RealBatches(tiny_images(24), batch_size=5, seed=7) for _ in range(2))
    in_turn = drawn(one, 40)
    assert [other.indices(position).tolist() for position in reversed(range(40))] == in_turn[::-1]
    assert drawn(RealBatches(tiny_images(24), batch_size=5, seed=8), 40) != in_turn
    other.position = 13
    assert torch.equal(next(other), one.pixels[in_turn[13]].float() / 127.5 - 1)
    assert other.position == 14


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_share_a_batch_without_overlap_or_loss(num_processes):
    alone = drawn(RealBatches(tiny_images(24), batch_size=6, seed=0), 20)
    shared = [
        drawn(RealBatches(tiny_images(24), 6 // num_processes, 0, "cpu", num_processes, index), 20)
        for index in range(num_processes)
    ]
    assert [[index for part in parts for index in part] for parts in zip(*shared)] == alone


def test_batches_are_normalised_on_the_way():
    batches = RealBatches(tiny_images(24, channels=3), batch_size=24, seed=0)
    batch = next(batches)
    assert (batch.shape, batch.dtype) == ((24, 3, 8, 8), torch.float32)
    assert (batch.min(), batch.max()) == (-1, 1)
    assert torch.equal(((batch + 1) * 127.5).round().to(torch.uint8), batches.pixels[batches.indices(0)])


def test_every_image_comes_equally_often():
    counts = Counter(index for batch in drawn(RealBatches(tiny_images(24), 7, 0), 240) for index in batch)
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("batch_size, num_processes", [(25, 1), (13, 2), (0, 1)])
def test_a_batch_larger_than_the_dataset_is_refused(batch_size, num_processes):
    with pytest.raises(InputError, match=f"train_batch_size={batch_size}.*the number of images, 24"):
        RealBatches(tiny_images(24), batch_size, 0, "cpu", num_processes)
