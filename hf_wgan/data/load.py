"""From the options, or from a dataset in Python, to training images; and a word about the bad ones."""

import os
from dataclasses import replace
from typing import Any

from ..utils.console import say
from ..utils.errors import InputError
from .cache import open_cache
from .config import DataConfig
from .decode import Preprocessing, too_many_bad
from .images import ImageSet
from .sources import Source, Stream, open_source, source_of
from .streaming import ImageStream

BAD_TO_NAME = 50


def load_images(config: DataConfig) -> ImageSet | ImageStream:
    """The training images that the options name, decoded once and kept in a cache.

    Raises:
        BadImageError: an image is bad, and `on_bad_image` is `"error"`.
        InputError: there is no such dataset, it leaves open which column holds the images, too many of them are bad,
            or none are left.
    """
    return _images(open_source(config), config)


def load_image_set(config: DataConfig) -> ImageSet:
    """The same, of all images at once.

    Raises:
        InputError: as above, or they are a stream.
    """
    images = load_images(config)
    if isinstance(images, ImageStream):
        raise InputError("streaming: figures are of the whole set; leave it out")
    return images


def load_held_out(config: DataConfig) -> ImageSet | None:
    """Load the images of `held_out_split`, prepared as those of the training split; None if there is none.

    Raises:
        InputError: As for `load_image_set`.
    """
    if config.held_out_split is None:
        return None
    return load_image_set(
        replace(config, dataset_split=config.held_out_split, held_out_split=None, max_train_samples=None)
    )


def images_of(dataset: Any, config: DataConfig, name: str = "dataset") -> ImageSet | ImageStream:
    """The same for a dataset of the datasets library: map-style, iterable, or a dictionary of splits."""
    return _images(source_of(dataset, config, name), config)


def _images(source: Source | Stream, config: DataConfig) -> ImageSet | ImageStream:
    if isinstance(source, Stream):
        return ImageStream(source, config)
    auto = config.channels is None
    cached = open_cache(
        source, Preprocessing.of(config), auto, config.cache_dir, stop_at_bad=config.on_bad_image == "error"
    )
    if cached.bad:
        _name_bad(cached.bad, cached.num_pictures)
    if len(cached.order) == 0:
        raise InputError(f"{source.name}: there are no images in it" + (" that can be read" if cached.bad else ""))
    if len(cached.bad) > config.max_bad_images * cached.num_pictures:
        raise too_many_bad(source.name, len(cached.bad), cached.num_pictures, config)
    return ImageSet.from_cache(cached, source.name, config)


def _name_bad(bad: list[tuple[str, str]], num_pictures: int) -> None:
    if os.environ.get("RANK", "0") != "0":
        return
    for name, why in bad[:BAD_TO_NAME]:
        say(f"Bad image left out: {name}: {why}")
    more = f" ({len(bad) - BAD_TO_NAME} more than named)" if len(bad) > BAD_TO_NAME else ""
    say(f"{len(bad)} of {num_pictures} images are bad and left out{more}.")
