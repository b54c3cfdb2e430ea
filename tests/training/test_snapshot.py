"""What a run ships: the batch-norm statistics of its generator."""

import copy

import pytest
import torch

from hf_wgan import DCGANGenerator
from hf_wgan.training.snapshot import measured

NUM_CLASSES, LATENTS_PER_CLASS = 100, 400


def test_each_class_looks_as_in_training_with_more_classes_than_a_batch_has_images():
    torch.manual_seed(0)
    generator = DCGANGenerator(16, 1, 8, 16, num_classes=NUM_CLASSES)
    with torch.no_grad():  # classes from dark to bright
        generator.class_embedding.weight.mul_(0.1).add_(torch.linspace(-4, 4, NUM_CLASSES)[:, None] * torch.randn(32))
        [*filter(lambda layer: isinstance(layer, torch.nn.ConvTranspose2d), generator.modules())][-1].weight.add_(0.05)
    labels = torch.arange(NUM_CLASSES).repeat_interleave(torch.arange(NUM_CLASSES) + 10)  # the bright ones are more
    shipped = measured(copy.deepcopy(generator), 8, seed=0, class_counts=labels.bincount())
    with torch.no_grad():
        batch = labels.repeat(5)
        trained = generator.train()(torch.randn(len(batch), 8), batch)
        for label in range(NUM_CLASSES):
            alone = shipped(torch.randn(LATENTS_PER_CLASS, 8), torch.full((LATENTS_PER_CLASS,), label))
            error = (alone.mean() - trained[batch == label].mean()).abs() * 127.5
            assert error < 1, f"class {label}: {error:.2f} of 255"


@pytest.mark.parametrize("unit", [1, 10**15, 0.125])
def test_statistics_are_of_classes_as_frequent_as_the_generator_says_in_any_unit(unit):
    torch.manual_seed(0)
    frequencies = [unit * times for times in (1, 0, 5, 2)]
    generator = DCGANGenerator(16, 1, 8, 16, num_classes=4, class_frequencies=frequencies)
    counts = torch.tensor([1, 0, 5, 2])
    by_config, by_counts = measured(copy.deepcopy(generator), 8, 0), measured(generator, 8, 0, class_counts=counts)
    assert all(torch.equal(one, other) for one, other in zip(by_config.buffers(), by_counts.buffers()))


@pytest.mark.parametrize(
    ("num_classes", "num_batches", "expected"), [(None, None, 50), (3, None, 50), (1000, None, 125), (1000, 1, 1)]
)
def test_statistics_are_of_enough_batches_for_the_classes_unless_a_number_is_asked_for(
    num_classes, num_batches, expected
):
    generator, sizes = DCGANGenerator(16, 1, 8, 8, num_classes=num_classes), []
    generator.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    measured(generator, 64, seed=0, num_batches=num_batches)
    assert sizes == [64] * expected
