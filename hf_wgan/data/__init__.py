"""Images from wherever they are to normalised batches on the device."""

from .batches import Batch, RealBatches
from .config import DataConfig
from .images import ImageSet
from .load import images_of, load_held_out, load_image_set, load_images
from .streaming import ImageStream, StreamedBatches

__all__ = [
    "Batch",
    "DataConfig",
    "ImageSet",
    "ImageStream",
    "RealBatches",
    "StreamedBatches",
    "images_of",
    "load_held_out",
    "load_image_set",
    "load_images",
]
