"""`hf-wgan evaluate`, `evaluate-digits` and `train-classifier`: metrics of sample quality."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..metrics.features import describe_features
from ..metrics.names import MIN_IMAGES
from ..utils import files
from ..utils.console import is_first_process, say
from ..utils.errors import InputError
from ..utils.options import MAX_SEED, Options, option
from .common import (
    OF_MODELS,
    SAMPLED_MODEL_HELP,
    ModelOptions,
    command,
    empty_folder,
    is_trained_on,
    load_pipeline,
    parser_for,
    record_of,
    training_data_of,
)

HIGH_PRECISION = 0.5  # of images that are almost their mean


@dataclass(frozen=True)
class EvaluateConfig(Options):
    """Measurement"""

    features: str = option(
        "auto",
        f"Feature extractor for the metrics: {describe_features()}.",
    )
    num_images: int = option(10_000, "Number of samples; fewer if there are fewer real images.", minimum=MIN_IMAGES)
    seed: int = option(0, "Sample k depends on seed + k alone.", minimum=0, maximum=MAX_SEED)
    batch_size: int = option(500, "Batch size of the networks' passes.", minimum=1)


@command
def evaluate(args: Sequence[str] | None = None) -> int:
    """Measure the quality of a model's samples, every metric in one pass.

    hf-wgan evaluate wgan-digits
    hf-wgan evaluate wgan-clothes --dataset_name path/to/fashion-mnist --held_out_split test
    hf-wgan evaluate wgan-photos --train_data_dir photos --features self-supervised
    """
    from ..data import DataConfig, load_held_out, load_image_set
    from ..metrics.evaluate import evaluate as measure
    from ..metrics.evaluate import evaluated_sets
    from ..metrics.features import load_feature_extractor
    from ..utils.processes import this_process

    parser = parser_for(evaluate, "evaluate", EvaluateConfig, ModelOptions, DataConfig, exclude=OF_MODELS)
    parser.epilog = (
        "Without --dataset_name and --train_data_dir the images are those that a model of this machine was trained on."
    )
    parser.add_argument("model", help=SAMPLED_MODEL_HELP)
    parsed = parser.parse(args)
    config, model_options = parsed.build(EvaluateConfig), parsed.build(ModelOptions)
    model = parsed.others["model"]
    with run_of(model, model_options.variant) as folder:
        state = this_process()
        pipeline = load_pipeline(model, model_options).to(state.device)
        pipeline.set_progress_bar_config(disable=True)
        record = record_of(model, model_options.revision)
        data_config = training_data_of(model, record, pipeline, parsed.options)
        images = load_image_set(data_config)
        held_out = load_held_out(images.config or data_config)
        images, held_out = evaluated_sets(pipeline, images, held_out)
        trained_on = is_trained_on(record, images)
        if trained_on is None and state.is_main_process:
            say(
                f"{model} has no record of what it was trained on: the images of {images.name} are not called its "
                "training images, and no metric is of copies."
            )
        with state.main_process_first():  # which may train the extractor, while the others wait
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
            trained_on=bool(trained_on),
        )
        state.destroy_process_group()
        if state.is_main_process:
            print(json.dumps({"metrics": result.metrics, "floor": result.floor, "settings": result.settings}, indent=2))
            if (precision := result.settings["precision_of_faded_images"]) > HIGH_PRECISION:
                say(
                    f"The precision says little here: images faded to a tenth of their contrast have {precision:.2f}. "
                    "Recall, coverage and the distances tell them from real ones."
                )
            _record(folder, result.rows())
    return 0


@contextmanager
def run_of(model: str, variant: str | None = None) -> Iterator[Path | None]:
    """Yield the folder of a run, which no other process changes meanwhile; None if no metrics can be recorded there."""
    folder = Path(model)
    if variant:  # the card states metrics of the weights that load without one
        yield None
        return
    if not (folder / files.CONFIG).is_file() or files.is_checkpoint(folder) or not is_first_process():
        yield None
        return
    of_run = folder.resolve().parent if folder.resolve().name == files.BEST else folder
    with ExitStack() as held:
        try:
            held.enter_context(files.locked(of_run))
        except InputError as error:
            say(f"The metrics will be shown and not recorded: {error}.")
            yield None
        else:
            yield folder


def _record(folder: Path | None, rows: list[dict[str, Any]]) -> None:
    """Write the metrics into the run's folder and its card, if the model is a run of this package."""
    from ..hub.card import record_evaluation

    if folder is not None:
        record_evaluation(folder, rows)
        print(f"Written into {folder / files.EVALUATION} and the card.", file=sys.stderr)


@dataclass(frozen=True)
class EvaluateDigitsConfig(Options):
    """Measurement"""

    num_images: int = option(1000, "Number of samples to classify.", minimum=1)
    seed: int = option(0, "Seed of the samples.", minimum=0, maximum=MAX_SEED)


@command
def evaluate_digits(args: Sequence[str] | None = None) -> int:
    """Measure how many samples a classifier of the real digits can read, and how evenly they cover the ten digits.

    hf-wgan evaluate-digits wgan-digits
    """
    from ..metrics.digits import evaluate

    parser = parser_for(evaluate_digits, "evaluate-digits", EvaluateDigitsConfig, ModelOptions)
    parser.add_argument("model", help=SAMPLED_MODEL_HELP)
    parsed = parser.parse(args)
    (config, model_options), model = parsed.configs, parsed.others["model"]
    with run_of(model, model_options.variant) as folder:
        report = evaluate(load_pipeline(model, model_options), config.num_images, config.seed)
        print(json.dumps(asdict(report), indent=2))
        accuracy = {"classifier's accuracy on held-out digits": round(report.held_out_accuracy, 4)}
        settings = {"samples": report.num_images, "seed": report.seed, **accuracy}
        metrics = {
            "digits_read": (
                "Samples that a classifier reads as one digit with a probability of at least 0.7",
                report.read,
            ),
            "rarest_digit": ("Samples read as the rarest digit", report.smallest_class),
        }
        if report.agreement is not None:
            name = "Samples whose likeliest digit is the requested class"
            metrics["class_agreement"] = (name, report.agreement)
        rows = [
            {"metric_type": kind, "metric_name": name, "metric_value": round(value, 4), "settings": settings}
            for kind, (name, value) in metrics.items()
        ]
        _record(folder, rows)
    return 0


@dataclass(frozen=True)
class TrainClassifierConfig(Options):
    """Training"""

    output_dir: str = option("classifier", "Folder for the network and its accuracy.")
    seed: int = option(0, "Seed of the weights and the order of the images.", minimum=0, maximum=MAX_SEED)


@command
def train_classifier(args: Sequence[str] | None = None) -> int:
    """Train a small classifier of a labelled dataset, whose features `hf-wgan evaluate` then compares.

    hf-wgan train-classifier --dataset_name path/to/fashion-mnist --resolution 32 --held_out_split test
    """
    from ..data import DataConfig, load_held_out, load_image_set
    from ..metrics.classifier import RECORD, load_or_train_classifier
    from ..utils.processes import this_process

    parser = parser_for(train_classifier, "train-classifier", TrainClassifierConfig, DataConfig)
    config, data_config = parser.parse(args).configs
    folder = Path(config.output_dir)
    if folder.exists() and not (folder / RECORD).is_file():
        empty_folder(config.output_dir)
    images = load_image_set(data_config)
    held_out = load_held_out(images.config or data_config)
    _, accuracy = load_or_train_classifier(folder, images, held_out, config.seed, device=this_process().device)
    print(f"Right about {accuracy:.2%} of held-out images: {folder}, for --features classifier:{folder}")
    return 0
