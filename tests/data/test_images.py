import numpy as np
import pytest
import torch
from PIL import Image

from hf_wgan import ImageSet, InputError
from hf_wgan.data.images import decode


def decoded(*pictures, resolution=8, channels=None):
    return decode(pictures.__getitem__, len(pictures), resolution, channels, "pictures")


def ramp(mode="L", size=(8, 8)):
    pixels = np.linspace(0, 255, size[0] * size[1]).astype(np.uint8).reshape(size[::-1])
    return Image.fromarray(pixels).convert(mode)


def test_pictures_of_the_right_size_come_through_untouched():
    images = decoded(ramp(), ramp()).images
    assert (images.dtype, images.shape) == (torch.uint8, (2, 1, 8, 8))
    assert np.array_equal(images[0, 0], np.asarray(ramp()))


def test_channels_follow_the_data():
    assert decoded(ramp("L"), ramp("1"), ramp("LA")).images.shape[1] == 1
    assert decoded(ramp("L"), ramp("RGB")).images.shape[1] == 3
    assert decoded(ramp("RGBA")).images.shape[1] == 3
    assert decoded(ramp("P")).images.shape[1] == 3
    assert decoded(ramp("CMYK")).images.shape[1] == 3


@pytest.mark.parametrize("channels, mode", [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_channels_can_be_set(channels, mode):
    picture = ramp("RGB")
    images = decoded(picture, channels=channels).images
    assert np.array_equal(images[0].permute(1, 2, 0).squeeze(-1), np.asarray(picture.convert(mode)))


@pytest.mark.parametrize("mode, channels", [("RGBA", 3), ("LA", 1), ("RGBA", 1)])
def test_transparency_turns_white_rather_than_black(mode, channels):
    picture = Image.new(mode, (8, 8))  # wholly transparent black
    assert (decoded(picture, channels=channels).images == 255).all()


def test_transparency_is_kept_where_there_is_a_channel_for_it():
    assert (decoded(Image.new("RGBA", (8, 8)), channels=4).images == 0).all()


def test_pictures_are_turned_upright():
    picture = ramp()
    picture.getexif()[0x0112] = 6  # the camera was turned by a quarter
    assert np.array_equal(decoded(picture).images[0, 0], np.rot90(np.asarray(ramp()), -1))


def test_sixteen_bits_are_scaled_to_eight():
    deep = Image.fromarray((np.asarray(ramp()).astype(np.uint16)) * 257)
    assert deep.mode.startswith("I")
    assert np.array_equal(decoded(deep).images[0, 0], np.asarray(ramp()))


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (3, 5), (2000, 10)])
def test_other_shapes_are_cropped_to_the_middle_and_not_stretched(size):
    pixels = np.zeros(size[::-1], np.uint8)
    middle = [slice((side - min(size)) // 2, (side + min(size)) // 2) for side in size[::-1]]
    pixels[tuple(middle)] = 200
    images = decoded(Image.fromarray(pixels)).images[0, 0]
    assert images.shape == (8, 8)
    assert (images[1:-1, 1:-1].float() - 200).abs().max() <= 40


def test_scaling_down_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    assert (decoded(Image.fromarray(stripes)).images.float() - 127.5).abs().max() < 16


def test_the_fingerprint_changes_with_any_pixel_and_with_the_shape():
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    prints = {ImageSet(pixels).fingerprint, ImageSet(pixels.reshape(2, 4, 2, 2)).fingerprint}
    pixels[1, 0, 3, 3] = 1
    prints.add(ImageSet(pixels).fingerprint)
    assert len(prints) == 3
    assert ImageSet(pixels.clone()).fingerprint in prints


@pytest.mark.parametrize(
    "pixels", [torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4).byte(), torch.zeros(0, 1, 4, 4).byte()]
)
def test_an_image_set_says_what_it_takes(pixels):
    with pytest.raises(InputError, match=r"images of (type|shape)"):
        ImageSet(pixels)


def test_no_pictures_and_broken_pictures_are_named():
    with pytest.raises(InputError, match="pictures: there are no images in it"):
        decoded()

    def broken(index):
        if index == 1:
            raise OSError("truncated")
        return ramp()

    with pytest.raises(InputError, match=r"album: image 1 cannot be opened \(truncated\)"):
        decode(broken, 3, 8, 1, "album")
