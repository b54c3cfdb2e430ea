"""Decoded training images: PIL pictures of any shape and mode to one uint8 tensor of one size."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from ..errors import InputError

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"}


@dataclass(frozen=True)
class ImageSet:
    """Training images in memory.

    Args:
        images: `(N, C, H, W)` uint8.
        name: What to call the dataset in logs and cards.
        fingerprint: Changes when any pixel does; computed from the pixels if not given.
    """

    images: torch.Tensor
    name: str = "images"
    fingerprint: str = ""

    def __post_init__(self) -> None:
        images = self.images
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise InputError(
                f"images of type {images.dtype} and shape {tuple(images.shape)}: must be torch.uint8, (N, C, H, W)"
            )
        if len(images) == 0:
            raise InputError(f"images of shape {tuple(images.shape)}: there are none")
        if not self.fingerprint:
            digest = hashlib.sha256(repr(tuple(images.shape)).encode())
            digest.update(images.contiguous().numpy().data)
            object.__setattr__(self, "fingerprint", digest.hexdigest()[:16])

    def __len__(self) -> int:
        return len(self.images)


def decode(
    open_image: Callable[[int], Image.Image], num_images: int, resolution: int, channels: int | None, name: str
) -> ImageSet:
    """Decodes pictures in parallel, with a progress bar.

    Each is turned upright by its EXIF orientation, scaled (Lanczos, antialiased) until its shorter side is
    `resolution`, and cropped to the central square. Transparency is composited onto white, unless the images keep it
    in a second or fourth channel.

    Args:
        open_image: Index to a picture, lazily decoded; called from several threads.
        num_images: How many there are.
        resolution: Height and width to decode to, in pixels.
        channels: 1 to 4 for grey, grey and alpha, RGB, RGBA; if None, 1 where every picture is grey, else 3.
        name: What to call the dataset.

    Raises:
        InputError: there are no pictures, or one cannot be read.
    """
    if num_images == 0:
        raise InputError(f"{name}: there are no images in it")
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        if channels is None:
            modes = set(pool.map(lambda index: _opened(open_image, index, name).mode, range(num_images)))
            channels = 1 if modes <= GREY_MODES else 3

        images = np.empty((num_images, resolution, resolution, channels), np.uint8)

        def decode_one(index: int) -> None:
            picture = _opened(open_image, index, name)
            try:
                pixels = np.asarray(_squared(_in_mode(picture, MODES[channels]), resolution))
            except Exception as error:  # PIL raises anything from OSError to struct.error on a damaged file
                raise InputError(f"{name}: image {index} cannot be decoded ({error}); remove or replace it") from error
            images[index] = pixels.reshape(resolution, resolution, channels)

        progress = tqdm(total=num_images, desc="Decoding", unit=" images", disable=num_images < 10_000)
        with progress:
            for _ in pool.map(decode_one, range(num_images)):
                progress.update()
    return ImageSet(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), name)


def _opened(open_image: Callable[[int], Image.Image], index: int, name: str) -> Image.Image:
    try:
        return open_image(index)
    except Exception as error:
        raise InputError(f"{name}: image {index} cannot be opened ({error}); remove or replace it") from error


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip to 8 instead of scaling
        picture = Image.fromarray((np.asarray(picture, dtype=np.float32) / 257).clip(0, 255).round().astype(np.uint8))
    if not picture.has_transparency_data or mode in ("LA", "RGBA"):
        return picture.convert(mode)
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(mode)


def _squared(picture: Image.Image, resolution: int) -> Image.Image:
    if picture.size == (resolution, resolution):
        return picture
    return ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)
