"""Where training images come from: the Hub, a local dataset, a folder of pictures, or scikit-learn's digits."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
from PIL import Image

from ..errors import InputError
from ..knobs import knob
from .images import ImageSet, decode

DIGITS_MARGIN = 1  # pixels of background around the 8×8 digits, which otherwise touch the frame


@dataclass(frozen=True)
class DataConfig:
    """Images (without --dataset_name and --train_data_dir: scikit-learn's 1,797 handwritten digits)"""

    dataset_name: str | None = knob(
        None,
        "Name of a dataset on the Hub, or path of a local one that the datasets library can load.",
    )
    dataset_config_name: str | None = knob(None, "Configuration of the dataset, where it has several.")
    dataset_split: str = knob("train", "Split of the dataset.")
    train_data_dir: str | None = knob(None, "Folder of image files, at any depth.")
    image_column: str | None = knob(None, "Column that holds the images; found by its type where there is only one.")
    resolution: int = knob(64, "Height and width of the training images, in pixels; others are scaled and cropped.")
    channels: Literal["auto", "1", "2", "3", "4"] = knob(
        "auto", "1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; auto: 1 where every image is grey, else 3."
    )

    def __post_init__(self) -> None:
        if self.dataset_name and self.train_data_dir:
            raise InputError("dataset_name and train_data_dir were both given: give one of them")
        if self.resolution < 1:
            raise InputError(f"resolution={self.resolution}: must be at least 1 pixel")


def load_images(config: DataConfig) -> ImageSet:
    """Decodes the training images that the options name.

    Raises:
        InputError: there is no such dataset, it has no images, or it leaves open which column holds them.
    """
    channels = None if config.channels == "auto" else int(config.channels)
    if config.train_data_dir:
        return images_of_dataset(
            _load_folder(config.train_data_dir), config.resolution, channels, None, config.train_data_dir
        )
    if config.dataset_name:
        return images_of_dataset(
            _load_dataset(config), config.resolution, channels, config.image_column, config.dataset_name
        )
    digits = _digits()
    return decode(digits.__getitem__, len(digits), config.resolution, channels, "scikit-learn digits")


def images_of_dataset(
    dataset: datasets.Dataset, resolution: int, channels: int | None, image_column: str | None, name: str
) -> ImageSet:
    """Decodes the images of a `datasets.Dataset`.

    Args:
        dataset: With an image column.
        resolution: Height and width to decode to, in pixels.
        channels: 1 to 4, or None for 1 where every image is grey, else 3.
        image_column: The column; if None, the only one of type `datasets.Image`.
        name: What to call the dataset.

    Raises:
        InputError: the column cannot be found, or an image cannot be read.
    """
    column = image_column or _only_image_column(dataset, name)
    if not isinstance(dataset.features.get(column), datasets.Image):
        raise InputError(f"image_column={column!r}: {name} has no image column of that name; {_columns(dataset)}")
    encoded = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def open_image(index: int) -> Image.Image:
        sample = encoded[index][column]
        if sample is None:
            raise ValueError("it is missing")
        return Image.open(io.BytesIO(sample["bytes"]) if sample["bytes"] is not None else sample["path"])

    return decode(open_image, len(encoded), resolution, channels, name)


def _load_folder(folder: str) -> datasets.Dataset:
    if not Path(folder).is_dir():
        raise InputError(f"train_data_dir={folder!r}: there is no such folder")
    Image.init()
    if not any(path.suffix.lower() in Image.EXTENSION for path in Path(folder).rglob("*")):
        raise InputError(f"train_data_dir={folder!r}: there are no image files in it")
    return _loaded(
        "train_data_dir", folder, lambda: datasets.load_dataset("imagefolder", data_dir=folder, split="train")
    )


def _load_dataset(config: DataConfig) -> datasets.Dataset:
    name = config.dataset_name
    if name is not None and any((Path(name) / marker).is_file() for marker in ("state.json", "dataset_dict.json")):
        dataset = _loaded("dataset_name", name, lambda: datasets.load_from_disk(name))
        if isinstance(dataset, datasets.DatasetDict):
            if config.dataset_split not in dataset:
                raise InputError(
                    f"dataset_split={config.dataset_split!r}: {name} has only {', '.join(map(repr, dataset))}"
                )
            dataset = dataset[config.dataset_split]
        return dataset
    load = lambda: datasets.load_dataset(name, config.dataset_config_name, split=config.dataset_split)  # noqa: E731
    return _loaded("dataset_name", name, load)


def _loaded(argument: str, value: Any, load: Any) -> Any:
    """The datasets library raises whatever the layer beneath it raised; a person needs one line of it."""
    try:
        return load()
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise InputError(f"{argument}={value!r}: cannot be loaded ({type(error).__name__}: {reason[0]})") from error


def _only_image_column(dataset: datasets.Dataset, name: str) -> str:
    columns = [column for column, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if len(columns) != 1:
        found = "several image columns" if columns else "no image column"
        raise InputError(f"{name} has {found}: set image_column; {_columns(dataset)}")
    return columns[0]


def _columns(dataset: datasets.Dataset) -> str:
    described = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in dataset.features.items())
    return f"its columns are {described}"


def _digits() -> list[Image.Image]:
    """The digits of scikit-learn (Alpaydin & Kaynak 1998), 8×8 with 17 grey levels, white on black, in a margin."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            'the default data is in scikit-learn, which is not installed: pip install "hf_wgan[train]", '
            "or name other data with dataset_name or train_data_dir"
        ) from error
    pixels = np.pad(load_digits().images, ((0, 0), (DIGITS_MARGIN,) * 2, (DIGITS_MARGIN,) * 2))
    return [Image.fromarray(digit) for digit in (pixels * (255 / 16)).round().astype(np.uint8)]
