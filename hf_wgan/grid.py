"""One picture of many."""

from collections.abc import Sequence

from PIL import Image


def image_grid(images: Sequence[Image.Image], columns: int | None = None, smallest_width: int = 512) -> Image.Image:
    """Lays images of one size and mode out in rows.

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
