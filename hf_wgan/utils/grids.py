"""Several images as one grid or video."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from . import files

FRAME_MILLISECONDS = 50
VIDEO_WIDTH = 256  # pixels, to which a video of smaller images is enlarged by a whole factor, as a grid is


def image_grid(images: Sequence[Image.Image], columns: int | None = None, smallest_width: int = 512) -> Image.Image:
    """Arrange images of one size and mode in rows.

    Args:
        images: At least one.
        columns: How many a row; by default the grid is about square.
        smallest_width: Small images are enlarged by a whole factor, each pixel a square, until the grid is about this
            wide, in pixels.
    """
    columns = columns or round(len(images) ** 0.5)
    rows = -(-len(images) // columns)
    factor = max(1, smallest_width // (columns * images[0].width))
    width, height = (factor * side for side in images[0].size)
    grid = Image.new(images[0].mode, (columns * width, rows * height))
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        grid.paste(image.resize((width, height), Image.Resampling.NEAREST), (column * width, row * height))
    return grid


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image to a file, in place of what is there; the system may write it to the disk a little later."""
    with files.replacing(path, is_flushed=False) as temporary:
        image.save(temporary)


def save_video(
    frames: Sequence[Image.Image],
    file: Any,
    kind: str,
    milliseconds: int = FRAME_MILLISECONDS,
    lossless: bool = True,
) -> None:
    """Save images as an endless animation.

    Args:
        frames: At least one, all of one size and mode.
        file: A path, or a file to write to.
        kind: `"gif"`, of 256 colours, or `"webp"`.
        milliseconds: Duration of each image.
        lossless: Whether WebP loses nothing.
    """
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": milliseconds, "loop": 0}
    if kind == "webp":
        options["lossless"] = lossless
    if frames[0].has_transparency_data:  # or frames pile up in GIF, and WebP loses the transparency
        options |= {"kmin": 0, "kmax": 1} if kind == "webp" else {"disposal": 2}
    frames[0].save(file, kind, **options)
