"""Every option of the training images, once."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from huggingface_hub.constants import HF_HOME

from ..utils.errors import InputError
from ..utils.options import Needs, Options, option
from .decode import Preprocessing, ValueRange, ranges_in_words

OF_DATASETS: Needs = {"dataset_name": True, "train_data_dir": True}
DIGITS = "scikit-learn digits"
"""Name of the images that are used where no option names any."""


@dataclass(frozen=True)
class DataConfig(Options):
    """Training images.

    Without `dataset_name` and `train_data_dir` they are scikit-learn's 1,797 handwritten digits.

    Raises:
        InputError: A value is out of its range.
    """

    # Where they come from.
    dataset_name: str | None = option(
        None,
        "Name of a dataset on the Hub, or path of a local one: a folder that the datasets library can load or has "
        "saved, a .parquet, .arrow or WebDataset .tar file, or IDX files (the MNIST family's format, gzipped or not).",
        common=True,
    )
    dataset_config_name: str | None = option(
        None,
        "Configuration of the dataset, where it has several.",
        needs={"dataset_name": True},
        late=True,
    )
    dataset_revision: str | None = option(
        None,
        "Branch, tag or commit of a dataset on the Hub.",
        needs={"dataset_name": True},
        late=True,
    )
    dataset_split: str = option(
        "train",
        "Split of the dataset, or a part of it as in train[:50%] or train+test; a folder may have train/ and test/.",
        needs=OF_DATASETS,
        late=True,
    )
    held_out_split: str | None = option(
        None,
        "Split that is not trained on, to compare samples with; without it they are compared with the training images.",
        matters=False,
        needs=OF_DATASETS,
        late=True,
    )
    train_data_dir: str | None = option(
        None,
        "Folder or ZIP file of images, at any depth; with one folder per class, or a metadata.jsonl, they have labels.",
        common=True,
    )
    image_column: str | None = option(
        None,
        "Column that holds the images; found by its type where there is only one.",
        needs=OF_DATASETS,
        late=True,
    )
    label_column: str | None = option(
        None,
        "Column that holds the labels; found by its type where there is only one.",
        needs=OF_DATASETS,
        late=True,
    )
    max_train_samples: int | None = option(
        None,
        "Maximum number of images; the first ones are used.",
        minimum=1,
    )
    streaming: bool = option(False, "Read the dataset as a stream, for what does not fit the disk.")
    shuffle_buffer_size: int = option(
        10_000,
        "Streaming: images among which the next is chosen at random.",
        minimum=1,
        needs={"streaming": True},
        late=True,
    )
    dataloader_num_workers: int = option(
        2,
        "Streaming: processes that decode.",
        matters=False,
        minimum=0,
        needs={"streaming": True},
        late=True,
    )

    # What is done to them.
    resolution: int = option(
        64,
        "Height and width of the training images, in pixels; the shorter side is scaled to it.",
        minimum=1,
        common=True,
    )
    width: int | None = option(
        None, "Width of the training images, if it differs from their height (--resolution).", minimum=1
    )
    center_crop: bool = option(
        True,
        "Crop to the middle; otherwise to a random part, another one each time.",
        needs=OF_DATASETS,
        late=True,
    )
    random_flip: bool = option(False, "Mirror half of the images, at random; not for writing, flags or hands.")
    channels: int | None = option(
        None,
        "1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; by default 1 where every image is grey, else 3.",
        minimum=1,
        maximum=4,
    )
    value_range: str | None = option(
        None,
        "LOW,HIGH: the values shown as black and white in images of more than 8 bits per channel, as in 0,4095 or "
        "--value_range=-1000,3000, or one for each type of values, as in uint16:0,4095;float:0,1. By default that of a "
        "model, or else of the training images.",
        needs=OF_DATASETS,
        late=True,
    )
    background: str = option(
        "white", "What shows through transparent pixels: a colour name or #rrggbb.", needs=OF_DATASETS, late=True
    )

    # What happens to bad ones, and where good ones are kept.
    on_bad_image: Literal["skip", "error"] = option(
        "skip", "skip: name a bad image and go on without it; error: stop at the first.", matters=False
    )
    max_bad_images: float = option(
        0.5,
        "Stop if a larger share of the images is bad, in [0, 1].",
        matters=False,
        minimum=0,
        maximum=1,
        needs={"on_bad_image": ["skip"]},
    )
    cache_dir: str | None = option(
        None, "Folder for decoded images; by default hf_wgan in the Hugging Face cache.", matters=False
    )
    memory_limit_gb: float | None = option(
        None,
        "A set that takes more memory than this, in 10^9 bytes, is read from the cache batch by batch; by default "
        "half of what the device has free.",
        matters=False,
        above=0,
        unless=["streaming"],
        late=True,
    )

    def check(self) -> None:
        """Check combinations of options."""
        if self.dataset_name and self.train_data_dir:
            raise InputError("dataset_name and train_data_dir were both given: give one of them")
        if self.streaming and not self.dataset_name and not self.train_data_dir:
            raise InputError("streaming: the digits are no stream; name data with dataset_name or train_data_dir")
        Preprocessing.of(self)

    @property
    def sample_size(self) -> tuple[int, int]:
        """Return height and width of the images in pixels."""
        return self.resolution, self.width or self.resolution

    def with_ranges(self, ranges: Iterable[ValueRange]) -> "DataConfig":
        """Return the options with the ranges of more types of values, as they have been computed over the images."""
        words = ranges_in_words(ranges)
        return replace(self, value_range=";".join(filter(None, [self.value_range, words]))) if words else self

    def is_of_python(self, name: str) -> bool:
        """Return whether images of this name are of a dataset in Python, which no option names."""
        return self.dataset_name is None and self.train_data_dir is None and name != DIGITS

    @property
    def hub_id(self) -> str | None:
        """Return the dataset's name on the Hub; None if it is a local one."""
        return self.dataset_name if self.dataset_name and not Path(self.dataset_name).exists() else None


def cache_folder(cache_dir: str | Path | None) -> Path:
    """Return the folder for everything that is computed of images once: by default in the Hugging Face cache."""
    return Path(cache_dir) if cache_dir else Path(HF_HOME) / "hf_wgan"
