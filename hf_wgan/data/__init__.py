"""Images from wherever they are to normalised batches on the device.

The names are imported on first use: sampling needs the decoder alone, and not the datasets library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches import Batch, RealBatches
    from .clusters import class_means, clustered, in_clusters_of
    from .config import DataConfig
    from .images import ImageSet
    from .load import check_same_ranges, images_of, load_held_out, load_image_set, load_images
    from .streaming import ImageStream, StreamedBatches

__all__ = [
    "Batch",
    "DataConfig",
    "ImageSet",
    "ImageStream",
    "RealBatches",
    "StreamedBatches",
    "check_same_ranges",
    "class_means",
    "clustered",
    "images_of",
    "in_clusters_of",
    "load_held_out",
    "load_image_set",
    "load_images",
]

_MODULES = {
    "Batch": ".batches",
    "RealBatches": ".batches",
    "DataConfig": ".config",
    "class_means": ".clusters",
    "clustered": ".clusters",
    "in_clusters_of": ".clusters",
    "ImageSet": ".images",
    "check_same_ranges": ".load",
    "images_of": ".load",
    "load_held_out": ".load",
    "load_image_set": ".load",
    "load_images": ".load",
    "ImageStream": ".streaming",
    "StreamedBatches": ".streaming",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)
