"""The `hf-wgan` command: finds the subcommand and hands it the rest of the command line."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from ..utils.commands import shell_command
from ..version import __version__

COMMANDS = {
    "train": ("train", "train", "Train a Wasserstein GAN on images."),
    "generate": ("generate", "generate", "Generate images or a video with a trained model."),
    "evaluate": ("evaluate", "evaluate", "Measure the quality of a model's samples."),
    "demo": ("demo", "demo", "Play with a model in a browser."),
    "push": ("publish", "push", "Push a model to the Hub."),
    "space": ("publish", "space", "Create a Space on the Hub that serves a model's demo."),
    "export": ("export", "export", "Export a generator or critic as one ONNX or torch.export file."),
    "plot": ("plot", "plot", "Plot the curves of runs in one picture."),
    "convert": ("convert", "convert", "Convert a checkpoint of the WGAN authors' own code."),
    "train-classifier": ("evaluate", "train_classifier", "Train the classifier whose features evaluate compares."),
    "evaluate-digits": ("evaluate", "evaluate_digits", "Count the readable samples of a model of the digits."),
}
"""Of each command: its module in this package, its function there, and its line in the list of commands."""

USAGE = """usage: {program} COMMAND ...

Wasserstein GANs for the Hugging Face ecosystem.

commands:
{commands}

{program} COMMAND --help    the options of a command
{program} --version         the version of this package"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand with the arguments, by default those of this process; return its exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    if name in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS)) + 2
        lines = [f"  {command:{width}}{summary}" for command, (_, _, summary) in COMMANDS.items()]
        print(USAGE.format(program=shell_command(), commands="\n".join(lines)))
        return 0
    if name in ("-V", "--version"):
        print(f"hf-wgan {__version__}")
        return 0
    if name not in COMMANDS:
        known = [*COMMANDS, "--help", "--version"]
        nearest = difflib.get_close_matches(name.replace("_", "-"), known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"must be one of {', '.join(COMMANDS)}"
        print(f"error: {name!r} is not a command of hf-wgan; {hint}", file=sys.stderr)
        return 2
    module, function, _ = COMMANDS[name]
    sys.argv = [f"hf-wgan {name}", *rest]
    return int(getattr(import_module(f".{module}", __package__), function)())


if __name__ == "__main__":
    raise SystemExit(main())
