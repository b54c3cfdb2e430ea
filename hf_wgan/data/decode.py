"""One picture, of any format, mode and shape, to uint8 pixels of the training size. Nothing is padded or half-read."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageOps

from ..utils.errors import BadImageError, InputError, one_line
from .config import DataConfig

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every picture before training; part of the cache's key.

    Args:
        resolution: Height and width of the training images, in pixels.
        channels: 1 to 4 for grey, grey and alpha, RGB, RGBA.
        center_crop: Whether a picture that is not square is cropped to its middle here, once. Otherwise it keeps its
            longer side, and each batch takes a random square of it.
        background: What shows through transparent pixels where there is no channel for them: a name or #rrggbb.

    Raises:
        InputError: a value is out of its range.
    """

    resolution: int
    channels: int
    center_crop: bool = True
    background: str = "white"

    @classmethod
    def of(cls, config: DataConfig) -> "Preprocessing":
        """That of the options, in colour if they leave the channels to the data."""
        return cls(config.resolution, config.channels or 3, config.center_crop, config.background)

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise InputError(f"resolution={self.resolution}: must be at least 1 pixel")
        if self.channels not in MODES:
            raise InputError(f"channels={self.channels}: must be 1, 2, 3 or 4")
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise InputError(f"background={self.background!r}: must be a colour name or #rrggbb") from error


def decode(picture: bytes | str | np.ndarray | Image.Image, how: Preprocessing) -> np.ndarray:
    """Decodes, turns upright, composites, scales and crops.

    The first frame of an animation; 16 bits a channel scaled to 8; EXIF orientation applied; transparency composited
    onto the background where the result has no channel for it; Lanczos with antialiasing until the shorter side is
    the resolution.

    Args:
        picture: An encoded file, its path, `(H, W)` or `(H, W, C)` uint8 pixels, or a PIL image.
        how: The preprocessing.

    Returns:
        `(h, w, channels)` uint8, where the shorter of h and w is the resolution, and the other too if cropped.

    Raises:
        Exception: whatever PIL raises for a file that is damaged or no picture.
    """
    image = _opened(picture)
    limit = Image.MAX_IMAGE_PIXELS
    if limit and image.width * image.height > limit:
        raise ValueError(f"it has {image.width} × {image.height} pixels, over PIL's limit of {limit:,}")
    image = _in_mode(ImageOps.exif_transpose(image), MODES[how.channels], how.background)
    image = _scaled(image, how)
    return np.asarray(image).reshape(image.height, image.width, how.channels)


def _opened(picture: bytes | str | np.ndarray | Image.Image) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture)
    if isinstance(picture, bytes):
        if not picture:
            raise ValueError("it is empty")
        return Image.open(io.BytesIO(picture))
    with open(picture, "rb") as file:
        return _opened(file.read())


def _in_mode(image: Image.Image, mode: str, background: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which PIL's own conversion would clip at 255
        pixels = np.asarray(image, dtype=np.float32)
        image = Image.fromarray((pixels / 257).clip(0, 255).round().astype(np.uint8))
    if not image.has_transparency_data or mode in ("LA", "RGBA"):
        return image.convert(mode)
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert(mode)


def _scaled(image: Image.Image, how: Preprocessing) -> Image.Image:
    side, shorter = how.resolution, min(image.size)
    if image.size == (side, side):
        return image
    if how.center_crop:
        return ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    width, height = (max(side, round(length * side / shorter)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def is_grey(pixels: np.ndarray) -> bool:
    """Whether `(h, w, 3)` pixels have no colour."""
    return bool((pixels[..., 1:] == pixels[..., :1]).all())


def reason(error: Exception) -> str:
    """What is wrong with a picture, without the names of buffers that PIL puts into it."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no picture that PIL knows"
    return one_line(error) or type(error).__name__


def bad_image(name: str, why: str) -> BadImageError:
    """What stops a run under `on_bad_image="error"`."""
    return BadImageError(f"{name}: {why}; remove or replace it, or set on_bad_image=skip")


def too_many_bad(name: str, bad: int, seen: int, config: DataConfig) -> InputError:
    """What stops a run under `max_bad_images`."""
    return InputError(
        f"{name}: {bad} of {seen} images are bad, more than max_bad_images={config.max_bad_images} allows"
    )


Picture = tuple[str, Any]
"""The name of a picture, to say which one is bad, and what `decode` takes; None if it is missing."""
