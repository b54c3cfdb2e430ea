"""The pictures of a run: sample grids, real images as the networks see them, and the grids as a video."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ..algorithm.latents import sample_normals
from ..data import RealBatches, StreamedBatches
from ..data.decode import as_picture
from ..utils import files
from ..utils.console import in_notebook, say
from ..utils.errors import one_line
from ..utils.grids import image_grid, save_video
from .callbacks import TrainerCallback, TrainerControl
from .config import TrainingConfig
from .state import TrainingState

MAX_FRAMES = 60  # of the video
FRAME_MILLISECONDS = 250

if TYPE_CHECKING:
    from .trainer import WGANTrainer


def sample_images(trainer: "WGANTrainer") -> list[Image.Image]:
    """Generate the images of a sample grid, of the same latents every time.

    Those between the intervals are cheap: one batch takes the place of the many that measure batch-norm statistics.
    """
    config, step = trainer.config, trainer.state.global_step
    rng = torch.Generator().manual_seed(config.seed)
    latents = sample_normals(config.num_validation_images, trainer.generator.config.latent_dim, rng)
    is_due = step > 0 and step % config.validation_steps == 0
    is_last = trainer.ends and not trainer.interrupted
    return trainer.pipeline(**{} if is_due or is_last else {"num_batches": 1})(latents=latents).images


class SamplesCallback(TrainerCallback):
    """Write grids of samples as `samples/step-000500.png`, once one of real images, and at the end all as a video.

    A notebook shows the newest grid.

    Args:
        real_images: Returns real images, or None as long as none is known.
    """

    def __init__(self, real_images: Callable[[], list[Image.Image] | None]):
        self.real_images = real_images
        self._shown: Any = None  # where a notebook shows it

    def on_sample(
        self,
        args: TrainingConfig,
        state: TrainingState,
        control: TrainerControl,
        *,
        images: list[Image.Image],
        **kwargs: Any,
    ) -> None:
        path = files.sample_grid(Path(args.output_dir), state.global_step)
        path.parent.mkdir(exist_ok=True)
        _save(images, path)
        real = path.with_name(files.REAL)
        if not real.exists() and (images := self.real_images() or []):
            _save(images, real)
        if in_notebook():
            self._show(path)

    def on_train_end(self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any) -> None:
        save_grids_as_video(Path(args.output_dir))

    def _show(self, path: Path) -> None:
        """Replace the grid shown before."""
        from IPython.display import Image as Picture
        from IPython.display import display

        if self._shown is None:
            self._shown = display(Picture(path), display_id=True)
        else:
            self._shown.update(Picture(path))


def _save(images: list[Image.Image], path: Path) -> None:
    with files.replacing(path) as temporary:
        image_grid(images).save(temporary)


def save_grids_as_video(output_dir: Path) -> None:
    """Save the sample grids of a run, at most 60 of them, as an animation. A failure costs only the video."""
    grids = files.sample_grids(output_dir)
    chosen = [grids[round(place)] for place in np.linspace(0, len(grids) - 1, min(len(grids), MAX_FRAMES))]
    try:
        frames = [Image.open(path) for path in chosen]
        alike = [frame for frame in frames if (frame.size, frame.mode) == (frames[-1].size, frames[-1].mode)]
        if len(alike) > 1:
            with files.replacing(output_dir / files.VIDEO, is_flushed=False) as temporary:
                save_video(alike, temporary, "webp", FRAME_MILLISECONDS, lossless=False)
    except (OSError, ValueError) as error:
        say(f"{files.VIDEO} was not written ({type(error).__name__}: {one_line(error)}).")


def first_real_images(batches: RealBatches | StreamedBatches, number: int) -> list[Image.Image] | None:
    """Return real images as the networks see them: scaled, cropped, flipped.

    Args:
        batches: Where training reads them, which is not changed.
        number: How many. A stream has at most those of its newest batch, and none before its first.
    """
    if isinstance(batches, StreamedBatches):
        newest = batches.newest
        return None if newest is None else _pictures(newest[:number])
    number = min(number, len(batches.dataset))
    parts = [batches.batch(position).images for position in range(-(-number // batches.batch_size))]
    return _pictures(torch.cat(parts)[:number])


def _pictures(images: torch.Tensor) -> list[Image.Image]:
    """Convert images `(N, C, H, W)` in [-1, 1]."""
    pixels = images.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [as_picture(image) for image in pixels]
