"""Load training images by options or from a dataset in Python, and name the images that are not used."""

from collections import Counter
from dataclasses import replace
from typing import Any

from ..utils.console import is_first_process, say
from ..utils.errors import InputError, check_type
from .cache import Cached, open_cache
from .config import DataConfig
from .decode import WITHOUT_EFFECT, Preprocessing, range_sentence, too_many_bad
from .images import ImageSet
from .labels import census, printable
from .sources import ArraySource, Source, Stream, open_source, source_of
from .streaming import ImageStream

BAD_TO_NAME = 50
OF_IMAGES = ", such as DataConfig(train_data_dir=...)"


def load_images(config: DataConfig) -> ImageSet | ImageStream:
    """Load the training images that the options name, decoded once and kept in a cache.

    Raises:
        BadImageError: An image is bad, and `on_bad_image` is `"error"`.
        InputError: There is no such dataset, it leaves open which column holds the images, too many of them are bad,
            none are left, or an option has no effect on them.
    """
    check_type("config", config, DataConfig, OF_IMAGES)
    config.check_effects()
    return _images(open_source(config), config)


def load_image_set(config: DataConfig) -> ImageSet:
    """Load the training images as `load_images` does, all of them at once.

    Raises:
        InputError: As for `load_images`, or they are a stream.
    """
    return _image_set(load_images(config))


def load_held_out(config: DataConfig) -> ImageSet | None:
    """Load the images of `held_out_split`, prepared as those of the training split; None if there is none.

    Args:
        config: The options of the training images: `images.config`, which has the range of their values. Without that
            the training images are looked at too, if those of the held-out split have more than 8 bits.

    Raises:
        InputError: As for `load_image_set`.
    """
    check_type("config", config, DataConfig, OF_IMAGES)
    if config.held_out_split is None:
        return None
    held_out = replace(config, dataset_split=config.held_out_split, held_out_split=None, max_train_samples=None)
    held_out.check_effects()
    return _image_set(_images(open_source(held_out), held_out, range_as=replace(config, held_out_split=None)))


def check_same_ranges(images: ImageSet | ImageStream, held_out: ImageSet) -> None:
    """Check that equal values of training images and of others, of more than 8 bits, are equally bright.

    Raises:
        InputError: They are not.
    """
    if images.config is None or held_out.config is None:
        return
    ours, theirs = Preprocessing.of(images.config), Preprocessing.of(held_out.config)
    kinds = {values.kind for values in (*ours.ranges, *theirs.ranges)}
    pairs = [(ours.value_range, theirs.value_range)]  # of all types
    for one, other in pairs + [(ours.known_range(kind), theirs.known_range(kind)) for kind in kinds]:
        if None not in (one, other) and one != other:
            raise InputError(
                f"held_out: {printable(held_out.name)} was read with value_range={held_out.config.value_range!r} and "
                f"the training images with value_range={images.config.value_range!r}, so that equal values differ in "
                "brightness; load it with that of the training images"
            )


def images_of(dataset: Any, config: DataConfig, name: str = "dataset") -> ImageSet | ImageStream:
    """Load the images of a dataset of the datasets library: map-style, iterable, or a dictionary of splits.

    Raises:
        BadImageError: As for `load_images`.
        InputError: As for `load_images`.
    """
    return _images(source_of(dataset, config, name), config)


def _value_range(config: DataConfig) -> str | None:
    """Return the range of the values of images, for as many types as they have."""
    source = open_source(config)
    if isinstance(source, Stream):
        return ImageStream(source, config).config.value_range
    return config.with_ranges(shown for _, shown, _ in _cached(source, config).ranges).value_range


def _image_set(images: ImageSet | ImageStream) -> ImageSet:
    if isinstance(images, ImageStream):
        raise InputError("streaming: metrics are of the whole set; leave it out")
    return images


def _cached(source: Source, config: DataConfig) -> Cached:
    stop_at_bad = config.on_bad_image == "error"
    return open_cache(source, Preprocessing.of(config), config.channels is None, config.cache_dir, stop_at_bad)


def _images(source: Source | Stream, config: DataConfig, range_as: DataConfig | None = None) -> ImageSet | ImageStream:
    """Load the images of a source.

    Args:
        source: The source.
        config: The options of its images.
        range_as: The options of other images, whose range values of more than 8 bits have here too.
    """
    if isinstance(source, Stream):
        return ImageStream(source, config)
    cached = _cached(source, config)
    if cached.ranges and range_as is not None:
        config = replace(config, value_range=_value_range(range_as))
        cached = _cached(source, config)
    if cached.bad:
        _name_bad(cached.bad, cached.num_pictures)
    if len(cached.order) == 0:
        raise InputError(f"{source.name}: there are no images in it" + (" that can be read" if cached.bad else ""))
    if len(cached.bad) > config.max_bad_images * cached.num_pictures:
        raise too_many_bad(source.name, len(cached.bad), cached.num_pictures, config)
    images = ImageSet.from_cache(cached, source.name, config)
    num_unread = len(cached.unread)
    reasons = {"cannot be read": num_unread, "bad images": len(cached.bad) - num_unread}
    images.left_out = source.left_out + Counter(reasons)
    if is_first_process():
        for line in _unused(cached, config):
            say(line)
    if not (isinstance(source, ArraySource) and config.dataset_name is None):  # the embedded digits are all used
        _summarise(images, cached)
    return images


def _summarise(images: ImageSet, cached: Cached) -> None:
    """Print how many images are used and how many files are not, which together are all of them."""
    if not is_first_process():
        return
    names = images.label_names or []
    line = f"{printable(images.name)}: {_count(len(images), 'image')}"
    if names:
        line += f" in {_count(len(names), 'class')}"
    if images.left_out:
        reasons = ", ".join(f"{why} {count:,}" for why, count in images.left_out.most_common())
        line += f"; {images.left_out.total():,} of {len(images) + images.left_out.total():,} left out ({reasons})"
    say(f"{line}.")
    if images.label_numbers is not None:
        for sentence in census(images.label_numbers, names):
            say(sentence)
    for own, shown, count in cached.ranges:
        if words := range_sentence(own, shown, count):
            say(words)


def _unused(cached: Cached, config: DataConfig) -> list[str]:
    """Return a line for each option that acts on none of the images, although it has another value than its default."""
    if cached.used is None:
        return []
    values = {name: getattr(config, name) for name in WITHOUT_EFFECT if name not in cached.used}
    return [
        f"{name}={value!r} has no effect: {WITHOUT_EFFECT[name]}."
        for name, value in values.items()
        if value != getattr(DataConfig, name)
    ]


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def _name_bad(bad: list[tuple[str, str]], num_pictures: int) -> None:
    if not is_first_process():
        return
    for name, why in bad[:BAD_TO_NAME]:
        say(f"Bad image left out: {name}: {why}")
    more = f" ({len(bad) - BAD_TO_NAME} more than named)" if len(bad) > BAD_TO_NAME else ""
    say(f"{len(bad)} of {num_pictures} images are bad and left out{more}.")
