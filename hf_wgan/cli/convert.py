"""`hf-wgan convert`: a checkpoint of the Wasserstein GAN authors' own code becomes a pipeline folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..utils.commands import shell_command
from ..utils.options import Options, option
from .common import command, empty_folder, parser_for


@dataclass(frozen=True)
class ConvertConfig(Options):
    """Conversion"""

    config: str | None = option(None, "Its generator_config.json; by default the one beside the weights.")
    critic: str | None = option(None, "netD_epoch_*.pth of the same run, to keep the critic beside the generator.")
    output_dir: str = option("wgan-converted", "Folder for the pipeline.")
    overwrite_output_dir: bool = option(False, "Write into the folder even if it is not empty.")


@command
def convert(args: Sequence[str] | None = None) -> int:
    """Convert a checkpoint of the Wasserstein GAN authors' own code into a pipeline folder.

    hf-wgan convert netG_epoch_24.pth --config generator_config.json --critic netD_epoch_24.pth
    """
    from ..hub.card import write_card
    from ..pipelines.convert import convert_original

    parser = parser_for(convert, "convert", ConvertConfig)
    parser.add_argument("generator", help="netG_epoch_*.pth as saved by the authors' code.")
    parsed = parser.parse(args)
    (config,), weights = parsed.configs, Path(parsed.others["generator"])
    folder = empty_folder(config.output_dir, config.overwrite_output_dir)
    weights_config = Path(config.config) if config.config else weights.with_name("generator_config.json")
    pipeline = convert_original(weights, weights_config, Path(config.critic) if config.critic else None)
    pipeline.save_pretrained(folder)
    write_card(folder)
    networks = [type(pipeline.generator).__name__] + ([type(pipeline.critic).__name__] if pipeline.critic else [])
    print(f"Saved {' and '.join(networks)} in {folder}; to see images: {shell_command('generate', str(folder))}")
    return 0
