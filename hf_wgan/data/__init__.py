"""Images from wherever they are to normalised batches on the device."""

from .batches import RealBatches
from .images import ImageSet
from .sources import DataConfig, load_images

__all__ = ["DataConfig", "ImageSet", "RealBatches", "load_images"]
