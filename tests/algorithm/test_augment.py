import numpy as np
import pytest
import torch
from conftest import seeded_rand

from hf_wgan.algorithm.augment import OPERATIONS, AdaptiveAugmentation, Augmentation
from hf_wgan.utils.errors import InputError


def images(number=8, channels=3, height=16, width=16):
    rng = torch.Generator().manual_seed(0)
    return torch.rand(number, channels, height, width, generator=rng) * 2 - 1


def augmented(policy, batch, seed=1):
    return Augmentation(policy, seeded_rand(seed))(batch)


@pytest.mark.parametrize("policy", [*OPERATIONS, "color,translation,cutout", "color, cutout"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_keep_their_shape_and_pass_gradients_to_every_image(policy, channels):
    batch = images(channels=channels, width=24).requires_grad_()
    out = augmented(policy, batch)
    assert out.shape == batch.shape and out.isfinite().all()
    out.square().sum().backward()
    assert (batch.grad.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("policy", OPERATIONS)
def test_each_image_is_augmented_by_itself_and_by_the_seed(policy):
    one = images(1).expand(8, -1, -1, -1)
    out = augmented(policy, one)
    assert len({tuple(image.flatten().tolist()) for image in out}) > 3, "equal images come out unequal"
    assert torch.equal(out, augmented(policy, one)) and not torch.equal(out, augmented(policy, one, seed=2))


def test_no_policy_changes_nothing():
    batch = images()
    assert Augmentation("")(batch) is batch


def test_translation_shifts_by_at_most_an_eighth():
    batch = torch.zeros(300, 1, 16, 16)
    batch[:, :, 8, 8] = 1
    places = augmented("translation", batch).nonzero()[:, 2:] - 8
    assert len(places) == 300
    assert places.min() == -2 and places.max() == 2
    assert {tuple(place) for place in places.tolist()} == {
        (down, right) for down in range(-2, 3) for right in range(-2, 3)
    }


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 20)])
def test_beyond_the_border_a_shifted_image_is_mirrored(size):
    height, width = size
    batch = torch.arange(height * width).float().reshape(1, 1, *size).repeat(200, 1, 1, 1)
    rows, columns = (np.pad(np.arange(side), max(1, side // 8), "reflect") for side in size)
    expected = {
        tuple(batch[0, 0][rows[top : top + height]][:, columns[left : left + width]].flatten().tolist())
        for top in range(len(rows) - height + 1)
        for left in range(len(columns) - width + 1)
    }
    assert {tuple(image.flatten().tolist()) for image in augmented("translation", batch)} == expected


def test_cutout_takes_a_square_of_half_the_side_that_may_reach_over_the_edge():
    holes = (augmented("cutout", torch.ones(300, 1, 16, 16)) == 0).flatten(1).sum(1)
    assert holes.max() == 64 and holes.min() < 64 and holes.min() > 0


def test_colour_moves_brightness_saturation_and_contrast_within_their_ranges():
    grey = torch.zeros(500, 3, 4, 4)
    brightness = augmented("color", grey).flatten(1)
    assert torch.allclose(brightness, brightness[:, :1].expand_as(brightness), atol=1e-6)
    assert -0.5 <= brightness.min() < -0.4 and 0.4 < brightness.max() <= 0.5


def test_an_unknown_operation_is_named():
    with pytest.raises(InputError, match="augmentation='color,flip': 'flip' is none of color, translation, cutout"):
        Augmentation("color,flip")


@pytest.mark.parametrize("policy", OPERATIONS)
@pytest.mark.parametrize("probability", [0.0, 0.25, torch.tensor(0.25), 1.0])
def test_each_operation_is_applied_to_its_share_of_the_images(policy, probability):
    batch = images(4000, height=8, width=8)
    out = Augmentation(policy, seeded_rand(), probability)(batch)
    whole = Augmentation(policy, seeded_rand())(batch)
    is_changed = (out != batch).flatten(1).any(1)
    assert torch.equal(out[is_changed], whole[is_changed]), "an image is augmented as it would be in any case"
    assert abs(is_changed.float().mean() - (whole != batch).flatten(1).any(1).float().mean() * probability) < 0.02


@pytest.mark.parametrize(
    ("train", "held_out", "rises"),
    [
        (1.0, 0.0, True),  # r_v = 1: all but the training images are taken for generated
        (1.0, 0.4, True),  # 0.6
        (1.0, 0.6, False),  # 0.4
        (1.0, 1.0, False),  # 0
        (0.001, 0.0004, True),  # whatever the scale
        (-0.5, 0.5, False),  # the critic prefers samples, and held-out images: it has learnt nothing by heart
        (0.0, 0.0, None),
    ],
)
def test_the_probability_rises_while_the_critic_prefers_training_images(train, held_out, rises):
    augmentation = AdaptiveAugmentation("cutout", seeded_rand(), target=0.5, num_images=1000, limit=0.8)
    augmentation.probability.fill_(0.4)
    augmentation.adjust(torch.tensor([train, held_out]), 100)
    expected = 0.4 if rises is None else 0.5 if rises else 0.3
    assert float(augmentation.probability) == pytest.approx(expected)


def test_the_probability_stays_where_the_generator_does_not_learn_the_augmentation():
    augmentation = AdaptiveAugmentation("cutout", seeded_rand(), num_images=10, limit=0.7)
    for advantages, limit in (([1.0, 0.0], 0.7), ([1.0, 1.0], 0.0)):
        for _ in range(20):
            augmentation.adjust(torch.tensor(advantages), 1)
        assert float(augmentation.probability) == pytest.approx(limit)


def test_the_probability_stays_low_where_single_batches_vary_more_than_the_critic_has_memorised():
    augmentation = AdaptiveAugmentation("cutout", seeded_rand(), target=0.5, num_images=1000, limit=0.8)
    rng = torch.Generator().manual_seed(0)
    highest = 0.0
    for _ in range(5000):  # r_v is 0.2 in the mean, and above 0.5 in two of five batches
        augmentation.adjust(torch.tensor([1.0, 0.8]) + torch.randn(2, generator=rng), 4)
        highest = max(highest, float(augmentation.probability))
    assert highest < 0.2
    for _ in range(5000):  # and 0.8 in the mean
        augmentation.adjust(torch.tensor([1.0, 0.2]) + torch.randn(2, generator=rng), 4)
    assert float(augmentation.probability) > 0.7


def test_a_report_has_the_ratio_over_all_adjustments_since_the_last():
    augmentation = AdaptiveAugmentation("cutout", seeded_rand(), num_images=10)
    assert augmentation.read() == {"augmentation_probability": 0.0}
    augmentation.adjust(torch.tensor([3.0, 1.0]), 1)
    augmentation.adjust(torch.tensor([1.0, 1.0]), 1)
    saved = {name: value.clone() for name, value in augmentation.state_dict().items()}
    report = augmentation.read()
    assert report["r_v"] == pytest.approx(2 / 4), "a ratio of sums: a single batch may have an advantage of about 0"
    assert augmentation.read() == {"augmentation_probability": report["augmentation_probability"]}
    other = AdaptiveAugmentation("cutout", seeded_rand())
    other.load_state_dict(saved)
    assert other.read() == report


def test_the_state_of_an_earlier_version_keeps_its_probability_and_starts_afresh():
    augmentation = AdaptiveAugmentation("cutout", seeded_rand())
    augmentation.adjust(torch.tensor([3.0, 1.0]), 1)
    augmentation.load_state_dict({"probability": torch.tensor(0.25), "sums": torch.tensor([5.0, 7.0])})
    assert augmentation.read() == {"augmentation_probability": 0.25}
