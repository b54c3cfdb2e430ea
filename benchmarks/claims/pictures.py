"""How the claims' pictures are saved."""

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image


def save_picture(figure: Figure, picture: Path, num_colours: int = 64) -> None:
    """Save a figure as a PNG of few colours, a third of the usual size; create its folder if necessary."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=100)
    small = Image.open(picture).convert("RGB").quantize(num_colours, Image.Quantize.FASTOCTREE)
    small.save(picture, optimize=True)
