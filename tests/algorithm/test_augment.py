import pytest
import torch
from conftest import seeded_rand

from hf_wgan.algorithm.augment import OPERATIONS, Augmentation
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
