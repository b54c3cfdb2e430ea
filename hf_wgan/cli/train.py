"""`hf-wgan train`: from settings to a trained pipeline; also `accelerate launch -m hf_wgan.cli.train`."""

import sys
from collections.abc import Sequence
from typing import Any

from ..utils.errors import InputError
from ..utils.launcher import end_with_launcher
from ..utils.options import LastCounts, OptionParser
from .common import check_unused, command, parser_for


@command
def train(args: Sequence[str] | None = None) -> int:
    """Train a Wasserstein GAN on images; the outcome is a diffusers pipeline, a sample grid and curves.

    hf-wgan train                                              # scikit-learn's digits, minutes on a CPU
    hf-wgan train --train_data_dir photos --resolution 64 --preset wgan-color --output_dir wgan-photos
    hf-wgan train --dataset_name huggan/smithsonian_butterflies_subset --mixed_precision bf16
    hf-wgan train --config wgan-digits/training_config.json --output_dir wgan-again
    hf-wgan train --num_processes 2 --mixed_precision bf16     # two GPUs

    Exit codes 130 (Ctrl-C), 143 (SIGTERM), 138 (SIGUSR1) and 129 (a closed terminal): the run was saved and can be
    resumed.
    """
    from ..utils.cores import OtherPrograms

    if args is None:
        end_with_launcher()
    others = OtherPrograms()  # measures while the rest is imported
    from ..training.build import build_trainer
    from ..training.config import OF_EVALUATIONS
    from ..training.resolve import DIGITS_DEFAULTS, HINTS, OPTION_CLASSES, RunConfig
    from . import launch
    from .dry_run import dry_run

    parser = parser_for(
        train,
        "train",
        *OPTION_CLASSES,
        launch.LaunchOptions,
        hints=launch.hints() | HINTS,
        stray="--train_data_dir names a folder of images, --dataset_name a dataset; put a name with spaces in quotes",
        common_only=True,
    )
    parser.epilog = (
        "Without --dataset_name and --train_data_dir the images are scikit-learn's 1,797 handwritten digits, and the "
        "defaults: "
        + " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in DIGITS_DEFAULTS.items())
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        action=LastCounts,
        help="YAML or JSON file of options, or the training_config.json of an earlier run.",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Print the settings in force, the networks, the images and the estimated time and memory; train nothing.",
    )
    try:
        parsed = parser.parse(args)
    except InputError as error:
        if answer := _epochs_in_steps(parser, sys.argv[1:] if args is None else args):
            raise InputError(f"{error}; {answer}") from error
        raise
    settings = {name: value for name, value in parsed.options.items() if name not in launch.NAMES}
    config = RunConfig.resolve(parsed.others["config"], **settings)
    if config.num_processes is None and not config.training.evaluation_steps:  # a record repeats what Python may use
        check_unused(config.training, OF_EVALUATIONS, "evaluation_steps=None", settings)
    processes = parsed.build(launch.LaunchOptions)
    if parsed.others["dry_run"]:
        dry_run(config, launch.choose(processes).num_processes or 1)
        return 0
    record: dict[str, Any] = {"imports": parsed.others["import"]} if parsed.others["import"] else {}
    if args is None:
        code = launch.start(processes)
        if code is not None:
            return code
        launch.start_again_if_crowded(others)
        record["command"] = launch.command_line()
    elif processes != launch.LaunchOptions():  # called from Python
        names = ", ".join(name for name in parsed.options if name in launch.NAMES)
        raise InputError(f"{names}: from Python this trains in the calling process; start processes with the command")
    trainer = build_trainer(config, record)
    trainer.train()
    trainer.accelerator.end_training()  # a process that ends within its group may abort, with all of its work done
    if trainer.interrupted:
        return 128 + trainer.interrupted
    return 2 if trainer.push_failed else 0


def _epochs_in_steps(parser: OptionParser, words: Sequence[str]) -> str:
    """Return how many steps the epochs on a command line are, or nothing if it names none or its values are wrong."""
    from ..data import load_image_set
    from ..training.resolve import FIELDS, RunConfig
    from ..utils.hints import EPOCHS

    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    at = next((index for index, word in enumerate(words) if word.lstrip("-") in EPOCHS), len(words))
    epochs = words[at + 1] if at + 1 < len(words) else ""
    if not epochs.isdecimal():
        return ""
    try:
        parsed, _ = parser.parse_known(words)
        settings = {name: value for name, value in parsed.options.items() if name in FIELDS}
        config = RunConfig.resolve(parsed.others["config"], **settings)
        num_images = len(load_image_set(config.data))
    except InputError:
        return ""
    batch = config.training.train_batch_size * config.training.gradient_accumulation_steps
    steps = int(epochs) * num_images / (batch * (parsed.options.get("num_processes") or 1) * config.training.n_critic)
    return f"{epochs} epochs of these {num_images:,} images are --max_train_steps {max(1, round(steps))}"


if __name__ == "__main__":
    raise SystemExit(train())
