"""What the scripts do: parse, call the package, print.

What goes wrong is one line on stderr. Exit code 2: a mistake in the input, or a push that failed. 1: the run failed.
128 and the signal's number: a signal ended it.
"""

import errno
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Literal

from ..metrics.features import describe_features
from ..utils import files
from ..utils.errors import BadImageError, ExportError, InputError, ProcessLostError, PushError, one_line
from ..utils.options import OptionParser, option

Command = Callable[..., int]
MODEL_HELP = "A folder that training left, or the name of a model on the Hub."
EXTRAS = {"ot": "train", "scipy": "train", "sklearn": "train", "gradio": "demo"}
"""Modules that commands can do without until they need them, and what of this package installs them."""


def command(function: Command) -> Command:
    """Answers what a person can mend in one line, printed once however many processes were launched."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> int:
        try:
            return function(*args, **kwargs)
        except (InputError, PushError, ExportError, FloatingPointError, OSError, ProcessLostError) as error:
            if os.environ.get("LOCAL_RANK", "0") == "0":
                print(f"error: {error}", file=sys.stderr)
            mistake = isinstance(error, (InputError, PushError)) and not isinstance(error, BadImageError)
            return 2 if mistake else 1
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            print(f'error: {error}; pip install "hf_wgan[{EXTRAS[error.name]}]" brings it', file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("Stopped at once.", file=sys.stderr)
            return 128 + signal.SIGINT

    return run


@command
def train(description: str, args: Sequence[str] | None = None) -> int:
    """`scripts/train_wgan.py`. Exit codes 130 (Ctrl-C), 143 (SIGTERM) and 138 (SIGUSR1) say that the run was saved, and
    can be resumed."""
    from ..training.build import build_trainer
    from ..training.resolve import HINTS, OPTION_CLASSES, RunConfig
    from .launch import command_line, relaunch_on_cpus

    parser = OptionParser(*OPTION_CLASSES, hints=HINTS, description=description)
    parser.add_argument(
        "--config", metavar="FILE", help="YAML or JSON file of options, or the training_config.json of an earlier run."
    )
    parsed = parser.parse(args)
    config = RunConfig.resolve(parsed.arguments.config, **parsed.options)
    if args is None:  # not when called from Python
        relaunch_on_cpus()
    trainer = build_trainer(config, {"command": command_line()} if args is None else None)
    trainer.train()
    trainer.accelerator.end_training()  # a process that ends within its group may abort, with all of its work done
    return 128 + trainer.interrupted if trainer.interrupted else 0


@dataclass(frozen=True)
class GenerateConfig:
    """Images"""

    num_images: int = option(64, "How many images to make; of a film, the places that it goes through.")
    output_dir: str = option("generated", "Folder for 00000.png, 00001.png, … and grid.png.")
    overwrite_output_dir: bool = option(False, "Write into the folder even if it is not empty.")
    seed: int = option(0, "Image k is made from the seed plus k, whatever the other options.")
    class_labels: str | None = option(
        None, "Classes by number or name, separated by commas, in turn; by default all of the model's."
    )
    truncation: float | None = option(
        None, "Largest absolute value of a latent number: the smaller, the more typical and the less varied."
    )
    num_candidates: int = option(1, "Keep of so many images for each the one that the critic scores highest.")
    rejection_temperature: float | None = option(
        None,
        "Draw each image until the critic accepts one: the lower, the stricter; in standard deviations of its scores.",
    )
    num_neighbours: int = option(
        0,
        "Write neighbours.png: at the left of each row one of the first images, then so many training images, the "
        "nearest by their pixels. The training images are those that the model's folder names, or those of "
        "--dataset_name or --train_data_dir.",
    )
    scores: bool = option(False, "Write the critic's scores to scores.csv, the highest first.")
    film: Literal["gif", "webp", "mp4", "frames"] | None = option(
        None,
        "Instead of single images, a film of a walk from one to the next and back to the first, or its frames as "
        "00000.png, 00001.png, …",
    )
    num_frames: int = option(60, "Of a film.")
    interpolation: Literal["spherical", "linear"] = option("spherical", "Of a film's latents.")
    invert: str | None = option(
        None,
        "Instead of random images, the nearest that the model makes to those of a file or folder: inverted.png has them"
        " in pairs, latents.safetensors where they lie.",
    )
    revision: str | None = option(None, "Branch, tag or commit of a model on the Hub.")
    variant: str | None = option(None, "Variant of the weights, such as fp16.")

    def __post_init__(self) -> None:
        for name in ("num_images", "num_candidates", "num_frames"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("seed", "num_neighbours"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 0")
        for name in ("num_candidates", "rejection_temperature", "scores", "num_neighbours"):
            value = getattr(self, name)
            if (self.film or self.invert) and value != type(self).__dataclass_fields__[name].default:
                raise InputError(f"{name}={value} with a film or inversion: leave one of them out")
        if self.film and self.num_images < 2:
            raise InputError(f"num_images={self.num_images} with a film: it goes from one to another, so at least 2")
        if self.film and self.invert:
            raise InputError(f"invert={self.invert!r} with a film: leave one of them out")


IMAGES_AT_ONCE = 1024  # held in memory before they are written
IMAGES_IN_GRID = 64
IMAGES_WITH_NEIGHBOURS = 16


@command
def generate(description: str, args: Sequence[str] | None = None) -> int:
    """`scripts/generate.py`."""
    import torch

    from ..data import DataConfig, load_image_set

    parser = OptionParser(GenerateConfig, DataConfig, exclude=("held_out_split",), description=description)
    parser.add_argument("model", help=f"{MODEL_HELP[:-1]}, or a file that scripts/export.py wrote.")
    config, data_config = parser.parse_options(args)
    model = parser.parse_args(args).model
    folder = empty_folder(config.output_dir, config.overwrite_output_dir)
    if Path(model).is_file():
        pipeline = _exported(model, config)
    else:
        pipeline = load_pipeline(model, revision=config.revision, variant=config.variant)
    training_images = None
    if config.num_neighbours:
        training_images = load_image_set(_trained_on(model, pipeline, data_config, parser.given(args)))
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    if config.invert:
        _invert(pipeline, config, folder)
    elif config.film:
        _film(pipeline, config, folder)
    else:
        first = _images(pipeline, config, folder)
        if training_images:
            _neighbours(pipeline, config, folder, first, training_images)
    return 0


def _exported(file: str, config: GenerateConfig) -> Any:
    from ..pipelines.export import load_exported

    for name in ("num_candidates", "rejection_temperature", "scores", "invert", "revision", "variant"):
        if getattr(config, name) != getattr(GenerateConfig, name):
            raise InputError(f"{name}={getattr(config, name)!r}: {file} is a generator alone; give the whole pipeline")
    return load_exported(file)


def _neighbours(pipeline: Any, config: GenerateConfig, folder: Path, images: list[Any], training_images: Any) -> None:
    from PIL import Image

    from ..utils.grids import image_grid

    images = images[:IMAGES_WITH_NEIGHBOURS]
    references = training_images.images
    numbers, distances = pipeline.neighbours(images, references, config.num_neighbours)
    rows = []
    for image, nearest in zip(images, numbers):
        arrays = references[nearest].permute(0, 2, 3, 1).numpy()
        rows += [image, *(Image.fromarray(each.squeeze(-1) if each.shape[-1] == 1 else each) for each in arrays)]
    image_grid(rows, columns=2 * (1 + config.num_neighbours)).save(folder / "neighbours.png")
    print(
        f"Saved neighbours.png: the nearest of {len(references):,} training images are {distances.mean():.3g} away, "
        "the root of the mean squared difference of pixels in [0, 1]."
    )


def _images(pipeline: Any, config: GenerateConfig, folder: Path) -> list[Any]:
    """The first of the images, as many as the grid shows."""
    from ..algorithm.random import seeded
    from ..utils.console import progress_bar
    from ..utils.grids import image_grid

    pipeline.set_progress_bar_config(disable=True)
    labels = _labels(config.class_labels)
    first: list[Any] = []
    scores: list[float] = []
    with progress_bar(config.num_images, " images") as progress:
        for start in range(0, config.num_images, IMAGES_AT_ONCE):
            numbers = range(start, min(start + IMAGES_AT_ONCE, config.num_images))
            seeds = seeded(config.seed + start, len(numbers))
            classes = labels and [labels[number % len(labels)] for number in numbers]
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
                image.save(folder / f"{number:05d}.png")
            first += images[: IMAGES_IN_GRID - len(first)]
            progress.update(len(images))
    image_grid(first).save(folder / "grid.png")
    if config.scores:
        ranked = sorted(enumerate(scores), key=lambda pair: -pair[1])
        lines = [f"{number:05d}.png,{score:.6g}" for number, score in ranked]
        (folder / "scores.csv").write_text("\n".join(["image,score", *lines]) + "\n")
    more = " and scores.csv" if config.scores else ""
    print(f"Saved {config.num_images} images, grid.png{more} in {folder}.")
    return first


def _film(pipeline: Any, config: GenerateConfig, folder: Path) -> None:
    import torch

    from ..algorithm.random import seeded
    from ..utils.grids import FILM_WIDTH, FRAME_MILLISECONDS, image_grid, save_film

    labels = _labels(config.class_labels)
    if labels and len(labels) > 1:
        raise InputError(f"class_labels={config.class_labels!r} with a film: give it one class")
    dim = pipeline.generator.config.latent_dim
    seeds = seeded(config.seed, config.num_images)
    latents = torch.cat([torch.randn(1, dim, generator=seed) for seed in seeds])
    frames = pipeline.interpolate(
        latents,
        config.num_frames,
        config.interpolation,
        loop=True,
        truncation=config.truncation,
        class_labels=labels[0] if labels else 0 if pipeline.generator.config.get("num_classes") else None,
    ).images
    folder.mkdir(parents=True, exist_ok=True)
    if config.film == "frames":
        for number, frame in enumerate(frames):
            frame.save(folder / f"{number:05d}.png")
        print(f"Saved {len(frames)} frames of a film in {folder}.")
        return
    frames = [image_grid([frame], smallest_width=FILM_WIDTH) for frame in frames]
    path = folder / f"walk.{config.film}"
    if config.film == "mp4":
        from diffusers.utils import export_to_video

        try:
            export_to_video([frame.convert("RGB") for frame in frames], str(path), fps=1000 // FRAME_MILLISECONDS)
        except (ImportError, AttributeError) as error:
            raise InputError('film="mp4": needs an encoder; pip install imageio imageio-ffmpeg, or use webp') from error
    else:
        save_film(frames, path, str(config.film))
    print(f"Saved a film of {len(frames)} frames: {path}.")


def _invert(pipeline: Any, config: GenerateConfig, folder: Path) -> None:
    import safetensors.torch
    import torch
    from PIL import Image, UnidentifiedImageError

    from ..models.factory import shape_of
    from ..utils.grids import image_grid

    source = Path(str(config.invert))
    if not source.exists():
        raise InputError(f"invert={config.invert!r}: there is no such file or folder")
    paths = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else [source]
    _, height, width = shape_of(pipeline.generator)
    targets = []
    for path in paths[: config.num_images]:
        try:
            targets.append(Image.open(path).convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"invert={config.invert!r}: {path} is no picture that can be read") from error
    if not targets:
        raise InputError(f"invert={config.invert!r}: has no files; name a picture, or a folder of them")
    labels = _labels(config.class_labels)
    classes = labels and [labels[number % len(labels)] for number in range(len(targets))]
    latents = pipeline.invert(targets, class_labels=classes, generator=torch.Generator().manual_seed(config.seed))
    found = pipeline(latents=latents, class_labels=classes, output_type="pt").images
    errors = (found.cpu() - pipeline.pixels(targets)).square().mean(dim=(1, 2, 3))
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({"latents": latents.cpu().contiguous()}, folder / "latents.safetensors")
    made = pipeline(latents=latents, class_labels=classes).images
    pairs = [each for pair in zip([target.convert(made[0].mode) for target in targets], made) for each in pair]
    image_grid(pairs, columns=2 * max(1, round(len(made) ** 0.5 / 2**0.5))).save(folder / "inverted.png")
    print(f"Saved inverted.png and latents.safetensors in {folder}; mean squared error {errors.mean():.4g} of [0, 1].")


def _labels(given: str | None) -> list[int | str] | None:
    if given is None:
        return None
    words = [word.strip() for word in given.split(",")]
    return [int(word) if word.isdigit() else word for word in words]


@dataclass(frozen=True)
class ExportConfig:
    """Export"""

    format: Literal["onnx", "torch"] = option(
        "onnx", "onnx: one .onnx file with the weights in it; torch: torch.export's program, a .pt2 file."
    )
    output: str | None = option(None, "The file, replaced if it is there; by default the model's name in this folder.")
    component: Literal["generator", "critic"] = option(
        "generator", "generator: latents to images in [0, 1]; critic: such images to scores."
    )
    revision: str | None = option(None, "Branch, tag or commit of a model on the Hub.")
    variant: str | None = option(None, "Variant of the weights, such as fp16.")


@command
def export(description: str, args: Sequence[str] | None = None) -> int:
    """`scripts/export.py`."""
    from ..pipelines.export import BATCH_SIZES, SUFFIXES, export_pipeline

    model, config = _model_and_config(ExportConfig, description, args)
    suffix = SUFFIXES[config.format]
    part = "-critic" if config.component == "critic" else ""
    path = Path(config.output or f"{Path(model).resolve().name}{part}{suffix}")
    if path.suffix != suffix:
        raise InputError(f"output={config.output!r} with format={config.format!r}: must end in {suffix}")
    pipeline = load_pipeline(model, revision=config.revision, variant=config.variant)
    difference = export_pipeline(pipeline, path, config.component)
    sizes = ", ".join(map(str, BATCH_SIZES))
    print(f"Saved the {config.component} in {path}; in batches of {sizes} it differs by at most {difference:.1e}.")
    return 0


@dataclass(frozen=True)
class DemoConfig:
    """The page"""

    host: str = option("127.0.0.1", "Address to listen on: only this machine's own; 0.0.0.0 lets the network in.")
    port: int | None = option(None, "By default the first from 7860 on that is free.")
    share: bool = option(False, "Have Gradio's servers give the page a public address, for a week.")
    revision: str | None = option(None, "Branch, tag or commit of a model on the Hub.")
    variant: str | None = option(None, "Variant of the weights, such as fp16.")


@command
def demo(description: str, args: Sequence[str] | None = None) -> int:
    """`scripts/demo.py`. Serves until it is ended."""
    import torch

    from ..pipelines.demo import launch, page

    model, config = _model_and_config(DemoConfig, description, args)
    _check_address(config.host, config.port)
    pipeline = load_pipeline(model, revision=config.revision, variant=config.variant)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = page(pipeline, Path(model).resolve().name if Path(model).is_dir() else model)
        where = {"server_name": config.host, "server_port": config.port, "share": config.share}
        try:
            launch(blocks, **where, ssr_mode=False, quiet=True, prevent_thread_lock=True)
        except Exception as error:  # Gradio raises plain exceptions, such as where a proxy hides this machine from it
            raise InputError(f"host={config.host!r}: the page cannot be served ({one_line(error)})") from error
        print(f"Serving {model} at {blocks.local_url} until Ctrl-C.", flush=True)
        threading.Event().wait()
    return 0


def _check_address(host: str, port: int | None) -> None:
    """Gradio tries a hundred ports, for seconds each, before it says the same.

    Raises:
        InputError: nothing can listen there.
    """
    if port is not None and not 1 <= port <= 65535:
        raise InputError(f"port={port}: must be from 1 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port={port}: is in use; name another, or leave it out") from error
        raise InputError(f"host={host!r}, port={port}: cannot be listened on ({one_line(error)})") from error


@dataclass(frozen=True)
class PushConfig:
    """Publishing"""

    hub_model_id: str | None = option(None, "Repository, as user/model; by default the folder's name.")
    hub_token: str | None = option(
        None, "Token that may write; by default that of hf auth login, or HF_TOKEN.", secret=True
    )
    hub_private_repo: bool = option(False, "Make the repository private, if it is not there yet.")
    revision: str | None = option(None, "Branch to push to, made if it is not there; the main one by default.")
    create_pr: bool = option(False, "Open a pull request instead of changing the branch.")
    commit_message: str = option("Upload a Wasserstein GAN", "What the commit is called.")
    variant: str | None = option(None, "fp16 or bf16: add weights of that precision beside the full ones.")
    with_checkpoint: bool = option(False, "Push the newest checkpoint too, with its optimizers.")


@command
def push_to_hub(description: str, args: Sequence[str] | None = None) -> int:
    """`scripts/push_to_hub.py`."""
    from ..hub.publish import Push, push_folder

    parser = OptionParser(PushConfig, description=description)
    parser.add_argument("folder", help="A folder that training or save_pretrained left.")
    (config,) = parser.parse_options(args)
    folder = Path(parser.parse_args(args).folder)
    push = Push(
        repo_id=config.hub_model_id or folder.resolve().name,
        token=config.hub_token,
        private=config.hub_private_repo,
        revision=config.revision,
        create_pr=config.create_pr,
        commit_message=config.commit_message,
        variant=config.variant,
        with_checkpoint=config.with_checkpoint,
    )
    print(f"Pushed to {push_folder(folder, push)}.")
    return 0


@dataclass(frozen=True)
class PushSpaceConfig:
    """Publishing"""

    hub_space_id: str | None = option(None, "The Space, as user/space; by default called as the model is.")
    hub_token: str | None = option(
        None, "Token that may write; by default that of hf auth login, or HF_TOKEN.", secret=True
    )
    hub_private_repo: bool = option(False, "Make the Space private, if it is not there yet.")


@command
def push_space(description: str, args: Sequence[str] | None = None) -> int:
    """`scripts/push_space.py`."""
    from ..hub import space

    model, config = _model_and_config(PushSpaceConfig, description, args)
    name = Path(model).resolve().name if Path(model).is_dir() else model
    push = space.SpacePush(model, config.hub_space_id or name, config.hub_token, config.hub_private_repo)
    load_pipeline(model, token=config.hub_token)  # what cannot be loaded here cannot be there
    print(f"Pushed to {space.push_space(push)}.")
    if space.needs_token(push):
        print(f"{model} is private: in the Space's settings, add a token that may read it, as the secret HF_TOKEN.")
    return 0


@dataclass(frozen=True)
class EvaluateConfig:
    """Measurement"""

    features: str = option(
        "classifier",
        f"Feature extractor for the metrics: {describe_features()}.",
    )
    num_images: int = option(10_000, "How many samples; fewer where there are fewer real images.")
    seed: int = option(0, "Sample k is made from the seed plus k.")
    batch_size: int = option(500, "Images that pass through the networks at once.")

    def __post_init__(self) -> None:
        from ..metrics.evaluate import MIN_IMAGES

        for name, least in {"num_images": MIN_IMAGES, "batch_size": 1, "seed": 0}.items():
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)}: must be at least {least}")


@command
def evaluate(description: str, args: Sequence[str] | None = None) -> int:
    """`scripts/evaluate.py`."""
    from accelerate import Accelerator

    from ..data import DataConfig, load_held_out, load_image_set
    from ..hub.card import record_evaluation
    from ..metrics.evaluate import evaluate as measure
    from ..metrics.features import load_feature_extractor

    parser = OptionParser(EvaluateConfig, DataConfig, description=description)
    parser.epilog = "Without --dataset_name and --train_data_dir the images are those that the model was trained on."
    parser.add_argument("model", help=MODEL_HELP)
    config, data_config = parser.parse_options(args)
    model = parser.parse_args(args).model
    state = Accelerator()
    pipeline = load_pipeline(model).to(state.device)
    pipeline.set_progress_bar_config(disable=True)
    data_config = _trained_on(model, pipeline, data_config, parser.given(args))
    images = load_image_set(data_config)
    held_out = load_held_out(data_config)
    with state.main_process_first():  # which may train it
        features = load_feature_extractor(config.features, images, held_out, state.device, data_config.cache_dir)
    result = measure(
        pipeline,
        images,
        features,
        held_out,
        num_images=config.num_images,
        seed=config.seed,
        batch_size=config.batch_size,
        cache_dir=data_config.cache_dir,
        progress=True,
    )
    state.end_training()
    if not state.is_main_process:
        return 0
    print(json.dumps({"figures": result.metrics, "floor": result.floor, "settings": result.settings}, indent=2))
    if (Path(model) / files.CONFIG).is_file():
        record_evaluation(Path(model), result.rows())
        print(f"Written into {Path(model) / files.EVALUATION} and the card.", file=sys.stderr)
    return 0


def _trained_on(model: str, pipeline: Any, given: Any, set_by_hand: set[str]) -> Any:
    """The data options: those of the command, or else those that the model was trained with; of its size.

    Raises:
        InputError: neither says which images.
    """
    from ..data import DataConfig
    from ..models.factory import shape_of

    config, record = given, Path(model) / files.CONFIG
    if given.dataset_name is None and given.train_data_dir is None:
        trained_with = json.loads(record.read_text())["dataset"]["config"] if record.is_file() else None
        if trained_with is None:
            raise InputError(
                f"dataset_name: {model!r} does not say what it was trained on; name the images with --dataset_name or "
                "--train_data_dir"
            )
        config = replace(
            DataConfig(**trained_with), **{name: getattr(given, name) for name in set_by_hand & set(trained_with)}
        )
    channels, size, _ = shape_of(pipeline.generator)
    return replace(config, resolution=size, channels=channels, streaming=False)


@dataclass(frozen=True)
class TrainClassifierConfig:
    """Training"""

    output_dir: str = option("classifier", "Folder for the network and its accuracy.")
    seed: int = option(0, "Of the weights and the order of the images.")


@command
def train_classifier(description: str, args: Sequence[str] | None = None) -> int:
    """`scripts/train_classifier.py`."""
    from ..data import DataConfig, load_held_out, load_image_set
    from ..metrics.classifier import load_or_train_classifier

    parser = OptionParser(TrainClassifierConfig, DataConfig, description=description)
    config, data_config = parser.parse_options(args)
    folder = Path(config.output_dir)
    images = load_image_set(data_config)
    held_out = load_held_out(data_config)
    _, accuracy = load_or_train_classifier(folder, images, held_out, config.seed)
    print(f"Right about {accuracy:.2%} of held-out images: {folder}, for --features classifier:{folder}")
    return 0


@dataclass(frozen=True)
class EvaluateDigitsConfig:
    """Measurement"""

    num_images: int = option(1000, "How many samples to classify.")
    seed: int = option(0, "Of the samples.")


@command
def evaluate_digits(description: str, args: Sequence[str] | None = None) -> int:
    """`scripts/evaluate_digits.py`."""
    from ..hub.card import record_evaluation
    from ..metrics.digits import evaluate

    model, config = _model_and_config(EvaluateDigitsConfig, description, args)
    if config.num_images < 1:
        raise InputError(f"num_images={config.num_images}: must be at least 1")
    report = evaluate(load_pipeline(model), config.num_images, config.seed)
    print(json.dumps(asdict(report), indent=2))
    if (Path(model) / files.CONFIG).is_file():
        accuracy = {"classifier's accuracy on held-out digits": round(report.held_out_accuracy, 4)}
        settings = {"samples": report.num_images, "seed": report.seed, **accuracy}
        figures = {
            "digits_read": ("Samples that a classifier reads as one digit with p >= 0.7", report.read),
            "rarest_digit": ("Samples read as the rarest digit", report.smallest_class),
        }
        if report.agreement is not None:
            name = "Samples of an asked class whose likeliest digit it is"
            figures["class_agreement"] = (name, report.agreement)
        rows = [
            {"metric_type": kind, "metric_name": name, "metric_value": round(value, 4), "settings": settings}
            for kind, (name, value) in figures.items()
        ]
        record_evaluation(Path(model), rows)
        print(f"Written into {Path(model) / files.EVALUATION} and the card.", file=sys.stderr)
    return 0


@dataclass(frozen=True)
class PlotConfig:
    """Picture"""

    output: str = option("runs.png", "File for the picture: .png, .svg or .pdf.")
    metrics: str | None = option(
        None,
        "Names in metrics.jsonl, separated by commas; by default wasserstein_estimate, generator_loss, and "
        "frechet_distance where it was measured.",
    )
    against: Literal["step", "seconds"] = option("step", "What runs to the right: steps, or seconds of training.")

    def __post_init__(self) -> None:
        if Path(self.output).suffix not in (".png", ".svg", ".pdf"):
            raise InputError(f"output={self.output!r}: must end in .png, .svg or .pdf")


@command
def plot_run(description: str, args: Sequence[str] | None = None) -> int:
    """`scripts/plot_run.py`."""
    from ..training.curves import can_plot, compare_runs

    parser = OptionParser(PlotConfig, description=description)
    parser.add_argument("runs", nargs="+", help="Folders that training left, also of runs that go on.")
    (config,) = parser.parse_options(args)
    if not can_plot():
        raise InputError('a picture needs matplotlib and scipy; pip install "hf_wgan[train]" brings them')
    metrics = config.metrics and [name.strip() for name in config.metrics.split(",")]
    compare_runs([Path(run) for run in parser.parse_args(args).runs], Path(config.output), metrics, config.against)
    print(f"Saved {config.output}.")
    return 0


def empty_folder(output_dir: str, overwrite: bool) -> Path:
    """The folder, if it may be written to.

    Raises:
        InputError: there is something in it.
    """
    folder = Path(output_dir)
    if folder.is_file() or (folder.exists() and any(folder.iterdir()) and not overwrite):
        raise InputError(
            f"output_dir={output_dir!r}: is not an empty folder; name another, or write into it by "
            "--overwrite_output_dir"
        )
    return folder


def _model_and_config(config_class: type, description: str, args: Sequence[str] | None) -> tuple[str, Any]:
    parser = OptionParser(config_class, description=description)
    parser.add_argument("model", help=MODEL_HELP)
    (config,) = parser.parse_options(args)
    return parser.parse_args(args).model, config


def load_pipeline(model: str, **options: Any) -> Any:
    """`WGANPipeline.from_pretrained`, with what goes wrong in one line."""
    from ..pipelines import loading

    return loading.load_pipeline(model, **options)
