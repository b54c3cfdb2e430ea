"""`hf-wgan generate`: images, videos and inversions from a trained model."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..utils import files
from ..utils.errors import InputError
from ..utils.options import MAX_SEED, Options, option
from .common import (
    OF_MODELS,
    SAMPLED_MODEL_HELP,
    ModelOptions,
    check_unused,
    command,
    empty_folder,
    load_pipeline,
    parser_for,
    record_of,
    training_data_of,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..data import ImageSet
    from ..pipelines import WGANPipeline

IMAGES_AT_ONCE = 1024  # held in memory before they are written
IMAGES_IN_GRID = 64
IMAGES_WITH_NEIGHBOURS = 16
ENCODERS = ("imageio_ffmpeg", "cv2")
"""Modules with one of which MP4 is written."""
NO_ENCODER = "video='mp4': needs an encoder; pip install imageio imageio-ffmpeg, or use webp"


@dataclass(frozen=True)
class GenerateConfig(Options):
    """Images"""

    num_images: int = option(64, "Number of images; with --video, of the images that it passes through.", minimum=1)
    output_dir: str = option("generated", "Folder for 00000.png, 00001.png, … and grid.png.")
    overwrite_output_dir: bool = option(False, "Write into the folder even if it is not empty.")
    seed: int = option(
        0, "Image k depends on seed + k alone, whatever the number of images.", minimum=0, maximum=MAX_SEED
    )
    class_labels: str | None = option(
        None, "Classes by number or name, separated by commas and used in turn; all of the model's by default."
    )
    truncation: float | None = option(
        None,
        "Largest absolute value of a latent number; smaller values give more typical and less varied images.",
        above=0,
        unless=["invert"],
    )
    num_candidates: int = option(
        1,
        "Generate this many candidates per image and keep the one the critic scores best.",
        minimum=1,
        unless=["video", "invert"],
    )
    rejection_temperature: float | None = option(
        None,
        "Resample each image until the critic accepts it; in standard deviations of its scores, lower is stricter.",
        above=0,
        unless=["video", "invert"],
    )
    num_neighbours: int = option(
        0,
        "Write neighbours.png: each row shows one of the first images and this many nearest training images by pixel "
        "distance. They are those of --dataset_name or --train_data_dir, or of the record of a run of this machine.",
        minimum=0,
        unless=["video", "invert"],
    )
    scores: bool = option(
        False, "Write the critic's scores to scores.csv, the highest first.", unless=["video", "invert"]
    )
    video: Literal["gif", "webp", "mp4", "frames"] | None = option(
        None,
        "Write a looping video of a walk from each image to the next instead of single images, or its frames as "
        "00000.png, 00001.png, …",
    )
    num_frames: int = option(60, "Frames in the video.", minimum=2, needs={"video": True})
    interpolation: Literal["spherical", "linear"] = option(
        "spherical", "Interpolation of the video's latents.", needs={"video": True}
    )
    invert: str | None = option(
        None,
        "Instead of random images, find the latents whose images are nearest to those of this file or folder; write "
        "the pairs to inverted.png and the latents to latents.safetensors. Where --class_labels names no classes, an "
        "image has that of the closest of some samples.",
        unless=["video"],
    )
    trust_remote_code: bool = option(False, "Load an exported .pt2 file, which can run code that is in it.")

    def check(self) -> None:
        if self.video and self.num_images < 2:
            raise InputError(
                f"num_images={self.num_images}: must be at least 2 with --video, which goes from one image to the next"
            )


@command
def generate(args: Sequence[str] | None = None) -> int:
    """Generate images with a trained model: a folder, a model on the Hub, or a file written by `hf-wgan export`.

    hf-wgan generate wgan-digits --num_images 1000 --output_dir generated
    """
    from ..data import DataConfig, load_image_set
    from ..utils.processes import this_process

    parser = parser_for(
        generate, "generate", GenerateConfig, ModelOptions, DataConfig, exclude=("held_out_split", *OF_MODELS)
    )
    parser.add_argument("model", help=f"{SAMPLED_MODEL_HELP[:-1]}, or file of an exported generator (.onnx or .pt2).")
    parsed = parser.parse(args)
    config, model_options = parsed.build(GenerateConfig), parsed.build(ModelOptions)
    model = parsed.others["model"]
    of_data = [name for name in parsed.options if name in DataConfig.__dataclass_fields__]
    if of_data and not config.num_neighbours:
        raise InputError(f"{', '.join(of_data)}: has no effect without --num_neighbours")
    folder = empty_folder(config.output_dir, config.overwrite_output_dir)
    if config.video == "mp4" and not any(map(find_spec, ENCODERS)):
        raise InputError(NO_ENCODER)
    if Path(model).is_file():
        pipeline = _exported(model, config, model_options)
    else:
        check_unused(config, ["trust_remote_code"], "a pipeline, of which no code is run")
        pipeline = load_pipeline(model, model_options)
    if labels := split_labels(config.class_labels, pipeline):
        pipeline.class_numbers(labels, len(labels))  # also those that no image of this command has
    if config.scores and pipeline.critic is None:
        raise InputError(f"scores=True: {model!r} has no critic; leave it out, or name a model that was saved with one")
    training_images = None
    if config.num_neighbours:
        record = record_of(model, model_options.revision)
        training_images = load_image_set(training_data_of(model, record, pipeline, parsed.options))
        if config.num_neighbours > len(training_images):
            raise InputError(
                f"num_neighbours={config.num_neighbours}: must be at most {len(training_images)}, the number of "
                "training images"
            )
    pipeline.to(this_process().device)
    if config.invert:
        _write_inversion(pipeline, config, folder)
    elif config.video:
        _write_video(pipeline, config, folder)
    else:
        first = _write_images(pipeline, config, folder)
        if training_images:
            _write_neighbours(pipeline, config, folder, first, training_images)
    return 0


def _exported(file: str, config: GenerateConfig, model_options: ModelOptions) -> Any:
    """Load an exported generator, which can do less than a pipeline.

    Raises:
        InputError: An option needs the whole pipeline.
    """
    from ..pipelines.export import load_exported

    for name in ("num_candidates", "rejection_temperature", "scores", "invert"):
        if getattr(config, name) != getattr(GenerateConfig, name):
            raise InputError(f"{name}={getattr(config, name)!r}: {file} is a generator alone; give the whole pipeline")
    check_unused(model_options, ["revision", "variant"], f"{file!r}, an exported generator")
    if Path(file).suffix != ".pt2":
        check_unused(config, ["trust_remote_code"], f"{file!r}, which holds no code")
    return load_exported(file, config.trust_remote_code)


def _write_images(pipeline: "WGANPipeline", config: GenerateConfig, folder: Path) -> "list[Image]":
    """Write the images, the grid and the scores; return the first images, as many as the grid shows."""
    from ..algorithm.random import seeded
    from ..utils.console import progress_bar
    from ..utils.grids import image_grid, save_image

    pipeline.set_progress_bar_config(disable=True)
    labels = split_labels(config.class_labels, pipeline)
    first: list[Image] = []
    scores: list[float] = []
    with progress_bar(config.num_images, " images") as progress:
        for start in range(0, config.num_images, IMAGES_AT_ONCE):
            numbers = range(start, min(start + IMAGES_AT_ONCE, config.num_images))
            seeds = seeded(config.seed + start, len(numbers))
            classes = pipeline.class_numbers(_in_turn(labels, numbers), len(seeds), seeds)
            images = pipeline(
                len(seeds),
                generator=seeds,
                class_labels=classes,
                truncation=config.truncation,
                num_candidates=config.num_candidates,
                rejection_temperature=config.rejection_temperature,
            ).images
            if config.scores:
                scores += pipeline.score(images, classes).tolist()
            folder.mkdir(parents=True, exist_ok=True)
            for number, image in zip(numbers, images):
                save_image(image, folder / f"{number:05d}.png")
            first += images[: IMAGES_IN_GRID - len(first)]
            progress.update(len(images))
    save_image(image_grid(first), folder / "grid.png")
    if config.scores:
        ranked = sorted(enumerate(scores), key=lambda pair: -pair[1])
        lines = [f"{number:05d}.png,{score:.6g}" for number, score in ranked]
        files.write_text(folder / "scores.csv", "\n".join(["image,score", *lines]) + "\n")
    with_scores = " and scores.csv" if config.scores else ""
    print(f"Saved {config.num_images} images, grid.png{with_scores} in {folder}.")
    return first


def _write_neighbours(
    pipeline: "WGANPipeline", config: GenerateConfig, folder: Path, images: "list[Image]", training_images: "ImageSet"
) -> None:
    """Write neighbours.png: rows of an image and its nearest training images."""
    from ..data.decode import as_picture
    from ..utils.grids import image_grid, save_image

    images = images[:IMAGES_WITH_NEIGHBOURS]
    references = training_images.images
    numbers, distances = pipeline.neighbours(images, references, config.num_neighbours)
    rows = []
    for image, nearest in zip(images, numbers):
        arrays = references[nearest].permute(0, 2, 3, 1).numpy()
        rows += [image, *map(as_picture, arrays)]
    save_image(image_grid(rows, columns=2 * (1 + config.num_neighbours)), folder / "neighbours.png")
    print(
        f"Saved neighbours.png: the nearest of {len(references):,} training images are {distances.mean():.3g} away, "
        "the root of the mean squared difference of pixels in [0, 1]."
    )


def _write_video(pipeline: "WGANPipeline", config: GenerateConfig, folder: Path) -> None:
    """Write a looping video, or its frames."""
    from ..algorithm.latents import sample_normals
    from ..algorithm.random import seeded
    from ..utils.grids import FRAME_MILLISECONDS, VIDEO_WIDTH, image_grid, save_image, save_video

    labels = split_labels(config.class_labels, pipeline)
    dim = pipeline.generator.config.latent_dim
    seeds = seeded(config.seed, config.num_images)
    classes = pipeline.class_numbers(_in_turn(labels, range(len(seeds))), len(seeds), seeds)
    latents = sample_normals(config.num_images, dim, seeds)
    frames = pipeline.interpolate(
        latents,
        config.num_frames,
        config.interpolation,
        loop=True,
        truncation=config.truncation,
        class_labels=classes,
    ).images
    folder.mkdir(parents=True, exist_ok=True)
    if config.video == "frames":
        for number, frame in enumerate(frames):
            save_image(frame, folder / f"{number:05d}.png")
        print(f"Saved {len(frames)} frames of a video in {folder}.")
        return
    frames = [image_grid([frame], smallest_width=VIDEO_WIDTH) for frame in frames]
    path = folder / f"walk.{config.video}"
    if config.video == "mp4":
        from diffusers.utils import export_to_video

        try:
            with files.replacing(path) as temporary:
                export_to_video(
                    [frame.convert("RGB") for frame in frames], str(temporary), fps=1000 // FRAME_MILLISECONDS
                )
        except (ImportError, AttributeError) as error:
            raise InputError(NO_ENCODER) from error
    else:
        with files.replacing(path) as temporary:
            save_video(frames, temporary, str(config.video))
    print(f"Saved a video of {len(frames)} frames: {path}.")


def _write_inversion(pipeline: "WGANPipeline", config: GenerateConfig, folder: Path) -> None:
    """Write the latents whose images are nearest to those of a file or folder, and the pairs of images."""
    import safetensors.torch
    import torch

    from ..data import DataConfig
    from ..data.decode import as_picture, decode, reason
    from ..data.folders import open_folder
    from ..utils.grids import image_grid, save_image

    source = Path(str(config.invert))
    if not source.exists():
        raise InputError(f"invert={config.invert!r}: there is no such file or folder")
    if source.is_dir():
        folder_of_images = open_folder(str(source), DataConfig(train_data_dir=str(source), dataset_split="all"))
        pictures = folder_of_images.read(0, min(config.num_images, len(folder_of_images)))
    else:
        check_unused(config, ["num_images"], f"invert={config.invert!r}, a single picture")
        pictures = [(source.name, str(source))]
    how, targets = pipeline.preprocessing, []
    for name, picture in pictures:
        try:
            pixels = decode(picture, how)
        except Exception as error:  # PIL raises anything for a damaged file
            raise InputError(
                f"invert={config.invert!r}: {name} is no picture that can be read ({reason(error)})"
            ) from error
        targets.append(as_picture(pixels))
    labels = split_labels(config.class_labels, pipeline)
    rng = torch.Generator().manual_seed(config.seed)
    classes: list[Any] | None = _in_turn(labels, range(len(targets)))
    if classes is None and pipeline.generator.config.get("num_classes"):
        classes = pipeline.closest_classes(targets, generator=rng)
    latents = pipeline.invert(targets, class_labels=classes, generator=rng)
    inverted = pipeline(latents=latents, class_labels=classes, output_type="pt").images
    errors = (inverted.cpu() - pipeline.pixels(targets)).square().mean(dim=(1, 2, 3))
    folder.mkdir(parents=True, exist_ok=True)
    with files.replacing(folder / "latents.safetensors") as temporary:
        tensors = {"latents": latents.cpu().contiguous()}
        if classes is not None:
            tensors["class_labels"] = torch.tensor(pipeline.class_numbers(classes, len(targets)))
        safetensors.torch.save_file(tensors, temporary)
    images = pipeline(latents=latents, class_labels=classes).images
    pairs = [image for pair in zip([target.convert(images[0].mode) for target in targets], images) for image in pair]
    grid = image_grid(pairs, columns=2 * max(1, round(len(images) ** 0.5 / 2**0.5)))
    save_image(grid, folder / "inverted.png")
    print(f"Saved inverted.png and latents.safetensors in {folder}; mean squared error {errors.mean():.4g} of [0, 1].")


def _in_turn(labels: list[str] | None, numbers: range) -> list[str] | None:
    """Return the label of each image by its number; None where there are no labels."""
    return labels and [labels[number % len(labels)] for number in numbers]


def split_labels(text: str | None, pipeline: "WGANPipeline") -> list[str] | None:
    """Split class labels at their commas, unless the whole text is the name of a class; leave out empty ones.

    The pipeline takes each for the name of a class, and for its number where no class has that name.

    Raises:
        InputError: The text holds commas and spaces only.
    """
    if text is None:
        return None
    names = pipeline.generator.config.get("class_names") or []
    if text in names:
        return [text]
    words = [word if word in names else word.strip() for word in text.split(",")]
    labels = [word for word in words if word or word in names]
    if not labels:
        raise InputError(f"class_labels={text!r}: holds no class; name one, or several separated by commas")
    return labels
