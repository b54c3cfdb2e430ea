"""One image, of any format, mode and shape, to uint8 pixels of the training size. Nothing is padded or half-read.

Training, inversion, scoring and every metric read images through this one function.
"""

import importlib.util
import io
import math
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageOps

from ..utils.errors import BadImageError, InputError, one_line

COLOUR = 3  # channels
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
WITH_ALPHA = ("LA", "RGBA")
MAX_FILE_BYTES = 1 << 30
MAX_ASPECT = 32  # of an image whose longer side is kept; a strip of 1 × 200,000 pixels would take gigabytes
# Ghostscript and system libraries decode these, or nothing does.
NOT_DECODED = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
COMMON = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # tried first
# Ranges that values of more than 8 bits usually have; the first that holds all values of a set is taken, unless they
# fill less than an eighth of it.
CONVENTIONAL = {
    "i": ((0, 1), (0, 255), (0, 1023), (0, 4095), (0, 16383), (0, 65535)),
    "f": ((0, 1), (-1, 1), (0, 255), (0, 65535)),
}
WITHOUT_EFFECT = {
    "center_crop": "no image has another aspect ratio than the training images",
    "value_range": "no image has more than 8 bits per channel",
    "background": "no image has transparency that the training images lack",
}
"""Options that act on some images only, and why they do not act on others."""
FLOAT = "float"  # the type of values of all precisions
KINDS = ("int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", FLOAT)


class ValueRange(NamedTuple):
    """The smallest and the largest value of images, for one type of values."""

    kind: str  # of KINDS
    low: float
    high: float


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every image before training; part of the cache's key.

    Args:
        resolution: Height and width of the training images, in pixels.
        width: Their width, where it differs from their height.
        channels: 1 to 4 for grey, grey and alpha, RGB, RGBA.
        center_crop: Whether an image of another aspect ratio is cropped to its middle here, once. Otherwise it keeps
            its longer side, and each batch takes a random part of it.
        background: Colour shown through transparent pixels where there is no channel for them: a name or #rrggbb.
        value_range: The values shown as black and white in images of more than 8 bits per channel.
        ranges: The same for each type of values, as that of a set; without either the image's own values decide.

    Raises:
        InputError: A value is out of its range.
    """

    resolution: int
    channels: int
    center_crop: bool = True
    background: str = "white"
    # Not in repr, and so not in fingerprints of sets: the pixels themselves are.
    value_range: tuple[float, float] | None = field(default=None, repr=False)
    ranges: tuple[ValueRange, ...] = field(default=(), repr=False)
    width: int | None = field(default=None, repr=False)

    @classmethod
    def of(cls, config: Any) -> "Preprocessing":
        """Return that of the options, in colour if they leave the channels to the data."""
        return cls(
            config.resolution,
            config.channels or COLOUR,
            config.center_crop,
            config.background,
            width=config.width,
        ).with_range(config.value_range)

    def with_range(self, value_range: Any) -> "Preprocessing":
        """Return the same preprocessing with a range as the option `value_range` names it; itself for None.

        Args:
            value_range: `"0,4095"` for values of every type, or one for each type as in `"uint16:0,4095;float:0,1"`.

        Raises:
            InputError: It is no such text.
        """
        if value_range is None:
            return self
        try:
            entries = [entry.rpartition(":") for entry in str(value_range).split(";")]
            ranges = [ValueRange(kind.strip(), *map(float, limits.split(","))) for kind, _, limits in entries]
            kinds = {values.kind for values in ranges}
            # Of a type, one value alone can be a range: images that hold nothing else are black.
            is_valid = all(-math.inf < values.low <= values.high < math.inf for values in ranges)
            if not is_valid or len(kinds) < len(ranges):
                raise ValueError
            if kinds <= set(KINDS):
                return replace(self, ranges=tuple(ranges))
            ((kind, low, high),) = ranges
            if kind or low == high:
                raise ValueError
        except (ValueError, TypeError):
            raise InputError(
                f"value_range={value_range!r}: must be LOW,HIGH, as in 0,4095, or one for each type of values, as in "
                "uint16:0,4095;float:0,1"
            ) from None
        return replace(self, value_range=(low, high))

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise InputError(f"resolution={self.resolution}: must be at least 1 pixel")
        if self.channels not in MODES:
            raise InputError(f"channels={self.channels}: must be 1, 2, 3 or 4")
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise InputError(f"background={self.background!r}: must be a colour name or #rrggbb") from error

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height of the training images, in PIL's order."""
        return self.width or self.resolution, self.resolution

    def known_range(self, kind: str) -> tuple[float, float] | None:
        """Return the values to show as black and white for a type of values; None if the images themselves decide.

        The only range of other whole numbers, or of other precisions, serves too: a file in another format or the same
        picture as an array often has another type.
        """
        if self.value_range is not None:
            return self.value_range
        same = [values[1:] for values in self.ranges if values.kind == kind]
        alike = [values[1:] for values in self.ranges if (values.kind == FLOAT) == (kind == FLOAT)]
        known = same or alike
        return known[0] if len(known) == 1 else None


def decode(picture: bytes | str | np.ndarray | Image.Image, how: Preprocessing) -> np.ndarray:
    """Decode an image, turn it upright, composite it, scale it and crop it.

    The first frame of an animation is taken; more than 8 bits per channel are scaled to 8 (see `Preprocessing`); the
    EXIF orientation is applied; transparency is composited onto the background where the result has no channel for
    it; Lanczos with antialiasing scales until the shorter side is the resolution.

    Args:
        picture: An encoded file, its path, a PIL image, or pixels `(H, W)`, `(H, W, C)` or `(C, H, W)` of any type.
        how: The preprocessing.

    Returns:
        `(h, w, channels)` uint8 of the training size if cropped; otherwise h or w may be larger.

    Raises:
        Exception: Whatever PIL raises for a file that is damaged or no image.
    """
    pixels = decode_or_range(picture, how, infer=True)
    assert isinstance(pixels, np.ndarray)
    return pixels


def decode_or_range(
    picture: Any, how: Preprocessing, infer: bool = False, used: set[str] | None = None
) -> np.ndarray | ValueRange:
    """Decode an image as `decode` does, but return its values' range where `how` does not say which is meant.

    Args:
        picture: As for `decode`.
        how: The preprocessing.
        infer: Take the range from this image alone, instead of returning it.
        used: Gets the names of those options of `WITHOUT_EFFECT` that act on this image.
    """
    used = set() if used is None else used
    image = _opened(picture)
    if isinstance(image, np.ndarray):
        height, width = image.shape[:2]
    else:
        width, height = image.size
    limit = Image.MAX_IMAGE_PIXELS
    if min(width, height) == 0:
        raise ValueError(f"it has {width} × {height} pixels")
    if limit and width * height > limit:
        raise ValueError(f"it has {width} × {height} pixels, over PIL's limit of {limit:,}")
    aspect = width / height * how.size[1] / how.size[0]
    if not how.center_crop and not 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
        raise ValueError(f"it has {width} × {height} pixels: over {MAX_ASPECT} times as long as wide, without cropping")
    transparent = None
    if isinstance(image, Image.Image):
        is_png = image.format == "PNG"
        image = _upright(image)
        if image.mode[0] in "IF":
            transparent = image.info.get("transparency")
            image = np.asarray(image)
            if is_png and image.dtype == np.int32:  # as Pillow 10.1 opens 16 bits
                image = image.astype(np.uint16)
    if isinstance(image, np.ndarray):
        if image.dtype == np.bool_:
            image = image.astype(np.uint8) * np.uint8(255)
        if image.dtype != np.uint8:
            values = _range(image)
            known = how.known_range(values.kind)
            if known is None and not infer:
                return values
            used.add("value_range")
            low, high = known or conventional(values)[1:]
            image = _to_bytes(image, low, high, transparent)
        image = as_picture(image)
    mode = MODES[how.channels]
    if image.has_transparency_data and mode not in WITH_ALPHA:
        used.add("background")
        image = _on_background(image, how.background)
    image = _scaled(_in_mode(image, mode), how)
    if image.size != how.size:
        used.add("center_crop")
    return np.asarray(image).reshape(image.height, image.width, how.channels)


def conventional(values: ValueRange) -> ValueRange:
    """Return the usual range that holds these values and is not mostly empty, or else the values' own."""
    for low, high in CONVENTIONAL["f" if values.kind == FLOAT else "i"]:
        is_full = max(abs(values.low), abs(values.high)) > high / 8
        if low <= values.low and values.high <= high and is_full:
            return ValueRange(values.kind, low, high)
    return values


def union(ranges: Iterable[ValueRange]) -> tuple[ValueRange, ...]:
    """Return the range of all values of a set, for each type of values."""
    result: dict[str, ValueRange] = {}
    for values in ranges:
        other = result.get(values.kind, values)
        result[values.kind] = ValueRange(values.kind, min(values.low, other.low), max(values.high, other.high))
    return tuple(result.values())


def ranges_in_words(ranges: Iterable[ValueRange]) -> str:
    """Return ranges as a text that `Preprocessing.with_range` takes, with every digit."""
    return ";".join(
        f"{kind}:{','.join(repr(limit).removesuffix('.0') for limit in limits)}" for kind, *limits in ranges
    )


def range_sentence(own: ValueRange, shown: ValueRange, count: int) -> str | None:
    """Return what to say about the values of images of more than 8 bits; None where their type's range is shown."""
    if shown == ("uint16", 0, 65535):
        return None
    return (
        f"{count:,} images hold {own.kind} values from {own.low:g} to {own.high:g}: {shown.low:g} is shown as black "
        f"and {shown.high:g} as white (--value_range LOW,HIGH changes that)."
    )


def image_formats() -> tuple[str, ...]:
    """Return the names of the formats that are decoded, all within this process."""
    if not _FORMATS:
        Image.init()
        if importlib.util.find_spec("pillow_heif"):
            importlib.import_module("pillow_heif").register_heif_opener()
        known = [name for name in Image.OPEN if name not in NOT_DECODED]
        _FORMATS.extend(sorted(known, key=lambda name: (*COMMON, name).index(name)))
    return tuple(_FORMATS)


def image_extensions() -> frozenset[str]:
    """Return the file name extensions of the formats that are decoded."""
    names = {*image_formats(), "MPO"}
    return frozenset(extension for extension, name in Image.EXTENSION.items() if name in names)


def is_image(file: BinaryIO) -> bool:
    """Return whether a file begins as an image of a format that has a signature."""
    prefix = file.read(64)
    formats = [name for name in image_formats() if (accept := Image.OPEN[name][1]) and accept(prefix)]
    if not formats or len(prefix) < 16:
        return False
    file.seek(0)
    try:
        with Image.open(file, formats=formats) as image:
            return min(image.size) > 0
    except Image.DecompressionBombError:
        return True  # to be named as one
    except Exception:
        return False


def read_file(path: str) -> bytes:
    """Return the content of a regular file of a reasonable size; a device or a pipe would never end.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no regular file, or too large.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no regular file")
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has {status.st_size:,} bytes, over the limit of {MAX_FILE_BYTES:,}")
        return file.read(MAX_FILE_BYTES)


def decode_or_error(
    picture: Any, how: Preprocessing, used: set[str] | None = None
) -> np.ndarray | ValueRange | Exception:
    """Decode an image as `decode_or_range` does, or return what is wrong with it."""
    try:
        if picture is None:
            raise ValueError("it is missing")
        if isinstance(picture, Exception):
            return picture
        pixels = decode_or_range(picture, how, used=used)
        return np.ascontiguousarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    except Exception as error:  # PIL raises anything from OSError to struct.error on a damaged file
        return error


def may_pass(error: Exception) -> bool:
    """Return whether an error says nothing about the content of an image: it could not be read, or memory was short."""
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return True
    return isinstance(error, (ConnectionError, TimeoutError)) or (
        isinstance(error, OSError) and error.errno is not None
    )


def as_picture(pixels: np.ndarray) -> Image.Image:
    """Return pixels `(H, W, C)` or `(H, W)`, uint8, as an image of PIL."""
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[2:] == (1,) else pixels)


def is_grey(pixels: np.ndarray) -> bool:
    """Return whether `(h, w, 3)` pixels have no colour."""
    return bool((pixels[..., 1:] == pixels[..., :1]).all())


def reason(error: Exception) -> str:
    """Return what is wrong with an image, without the names of buffers that PIL puts into it."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no picture that PIL knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error) or type(error).__name__


def bad_image(name: str, why: str) -> BadImageError:
    """Return what stops a run under `on_bad_image="error"`."""
    return BadImageError(f"{name}: {why}; remove or replace it, or set on_bad_image=skip")


def too_many_bad(name: str, bad: int, seen: int, config: Any) -> InputError:
    """Return what stops a run under `max_bad_images`."""
    return InputError(
        f"{name}: {bad} of {seen} images are bad, more than max_bad_images={config.max_bad_images} allows"
    )


Picture = tuple[str, Any]
"""The name of an image, to say which one is bad, and what `decode` takes; None if missing, or the error of reading."""

_FORMATS: list[str] = []


def _opened(picture: bytes | str | np.ndarray | Image.Image) -> Image.Image | np.ndarray:
    if isinstance(picture, Image.Image):
        if getattr(picture, "format", None) in NOT_DECODED:
            raise ValueError(f"{picture.format} images are not decoded")
        if any(tile[0] == "fits_gzip" for tile in getattr(picture, "tile", ())):
            raise ValueError("compressed FITS images are not decoded")  # PIL unpacks them without a limit
        return picture
    if isinstance(picture, np.ndarray):
        return _channels_last(picture)
    if isinstance(picture, bytes):
        if not picture:
            raise ValueError("it is empty")
        return _opened(Image.open(io.BytesIO(picture), formats=image_formats()))
    return _opened(read_file(picture))


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 3 and pixels.shape[2] not in MODES and pixels.shape[0] in MODES:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in MODES) or 0 in pixels.shape:
        raise ValueError(f"it is an array of shape {pixels.shape}, not (H, W), (H, W, C) or (C, H, W)")
    if pixels.dtype.kind not in "biuf":
        raise ValueError(f"it is an array of type {pixels.dtype}, not of numbers")
    return np.ascontiguousarray(pixels)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF is written by anything, and its damage says nothing of the pixels
        return image


def _range(pixels: np.ndarray) -> ValueRange:
    values = pixels[np.isfinite(pixels)] if pixels.dtype.kind == "f" else pixels
    if values.size == 0:
        raise ValueError("it has no finite value")
    kind = FLOAT if pixels.dtype.kind == "f" else pixels.dtype.name
    return ValueRange(kind, float(values.min()), float(values.max()))


def _to_bytes(pixels: np.ndarray, low: float, high: float, transparent: Any = None) -> np.ndarray:
    """Scale values from [low, high] to [0, 255]; a value that stands for transparency becomes an alpha channel."""
    precise: Any = np.float64 if pixels.dtype.itemsize > 2 else np.float32
    scaled = (pixels.astype(precise) - low) * (255 / (high - low) if high > low else 0)
    result = np.nan_to_num(scaled, nan=0).clip(0, 255).round().astype(np.uint8)
    if isinstance(transparent, (int, float)):
        result = np.dstack([result, np.where(pixels == transparent, 0, 255).astype(np.uint8)])
    return result


def _on_background(image: Image.Image, background: str) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode not in ("L", "LA", "RGB", "RGBA", "P", "PA", "1"):
        image = image.convert("RGB") if image.mode != "La" else image.convert("LA")
    return image.convert(mode)


def _scaled(image: Image.Image, how: Preprocessing) -> Image.Image:
    if image.size == how.size:
        return image
    if how.center_crop:
        return ImageOps.fit(image, how.size, Image.Resampling.LANCZOS)
    # The side that has less to spare decides; the other stays longer than the training images are.
    target, length = max(zip(how.size, image.size), key=lambda sides: sides[0] / sides[1])
    width, height = (max(side, round(own * target / length)) for side, own in zip(how.size, image.size))
    return image.resize((width, height), Image.Resampling.LANCZOS)
