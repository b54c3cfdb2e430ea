"""`hf-wgan convert`: a checkpoint of the Wasserstein GAN authors' own code becomes a pipeline's folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..hub.card import write_card
from ..pipelines.convert import convert_original
from ..utils.options import OptionParser, option
from .commands import command, empty_folder


@dataclass(frozen=True)
class ConvertConfig:
    """Conversion"""

    config: str | None = option(None, "Its generator_config.json; the one beside the weights if not given.")
    critic: str | None = option(None, "netD_epoch_*.pth of the same run, to keep the critic beside the generator.")
    output_dir: str = option("wgan-converted", "Folder for the pipeline.")
    overwrite_output_dir: bool = option(False, "Write into the folder even if it is not empty.")


@command
def convert_original_wgan(description: str, args: Sequence[str] | None = None) -> int:
    """`scripts/convert_original_wgan.py`."""
    parser = OptionParser(ConvertConfig, description=description)
    parser.add_argument("generator", help="netG_epoch_*.pth that the authors' code saved.")
    (options,) = parser.parse_options(args)
    weights = Path(parser.parse_args(args).generator)
    folder = empty_folder(options.output_dir, options.overwrite_output_dir)
    config = Path(options.config) if options.config else weights.with_name("generator_config.json")
    pipeline = convert_original(weights, config, Path(options.critic) if options.critic else None)
    pipeline.save_pretrained(folder)
    write_card(folder)
    made = type(pipeline.generator).__name__ + (f" and {type(pipeline.critic).__name__}" if pipeline.critic else "")
    print(f"Saved {made} in {folder}; to see images: python scripts/generate.py {folder}")
    return 0
