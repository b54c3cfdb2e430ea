"""`hf-wgan train`: from settings to a trained pipeline; also `accelerate launch -m hf_wgan.cli.train`."""

from collections.abc import Sequence

from .common import command, parser_for


@command
def train(args: Sequence[str] | None = None) -> int:
    """Train a Wasserstein GAN on images; the outcome is a diffusers pipeline, a sample grid and curves.

    hf-wgan train                                              # scikit-learn's digits, minutes on a CPU
    hf-wgan train --train_data_dir photos --resolution 64 --output_dir wgan-photos
    hf-wgan train --dataset_name huggan/smithsonian_butterflies_subset --mixed_precision bf16
    hf-wgan train --config wgan-digits/training_config.json --output_dir wgan-again

    Exit codes 130 (Ctrl-C), 143 (SIGTERM) and 138 (SIGUSR1): the run was saved and can be resumed.
    """
    from ..training.build import build_trainer
    from ..training.resolve import DIGITS_DEFAULTS, HINTS, OPTION_CLASSES, RunConfig
    from .launch import command_line, relaunch_on_cpus

    parser = parser_for(train, "train", *OPTION_CLASSES, hints=HINTS)
    parser.epilog = "Without --dataset_name and --train_data_dir the defaults are: " + " ".join(
        f"--{name} {value}" for name, value in DIGITS_DEFAULTS.items()
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML or JSON file of options, or the training_config.json of an earlier run."
    )
    parsed = parser.parse(args)
    config = RunConfig.resolve(parsed.others["config"], **parsed.options)
    if args is None:  # not when called from Python
        relaunch_on_cpus()
    trainer = build_trainer(config, {"command": command_line()} if args is None else None)
    trainer.train()
    trainer.accelerator.end_training()  # a process that ends within its group may abort, with all of its work done
    return 128 + trainer.interrupted if trainer.interrupted else 0


if __name__ == "__main__":
    raise SystemExit(train())
