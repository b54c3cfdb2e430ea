"""`hf-wgan export`: one file for other tools."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..utils.errors import InputError
from ..utils.options import Options, option
from .common import MODEL_HELP, ModelOptions, command, load_pipeline, parser_for


@dataclass(frozen=True)
class ExportConfig(Options):
    """Export"""

    format: Literal["onnx", "torch"] = option(
        "onnx", "onnx: one .onnx file with the weights in it; torch: torch.export's program, a .pt2 file."
    )
    output: str | None = option(None, "File to write or replace; by default the model's name in the current folder.")
    component: Literal["generator", "critic"] = option(
        "generator", "generator: latents to images in [0, 1]; critic: such images to scores."
    )


@command
def export(args: Sequence[str] | None = None) -> int:
    """Export a trained model's generator, or critic, as one file for other tools, and check the file's outputs.

    hf-wgan export wgan-digits --format onnx --output wgan-digits.onnx
    hf-wgan generate wgan-digits.onnx --num_images 16 --seed 0
    """
    from ..pipelines.export import BATCH_SIZES, SUFFIXES, export_pipeline

    parser = parser_for(export, "export", ExportConfig, ModelOptions)
    parser.add_argument("model", help=MODEL_HELP)
    parsed = parser.parse(args)
    (config, model_options), model = parsed.configs, parsed.others["model"]
    suffix = SUFFIXES[config.format]
    part = "-critic" if config.component == "critic" else ""
    path = Path(config.output or f"{Path(model).resolve().name}{part}{suffix}")
    if path.suffix != suffix:
        raise InputError(f"output={config.output!r} with format={config.format!r}: must end in {suffix}")
    pipeline = load_pipeline(model, model_options)
    difference = export_pipeline(pipeline, path, config.component)
    sizes = ", ".join(map(str, BATCH_SIZES))
    print(f"Saved the {config.component} in {path}; in batches of {sizes} it differs by at most {difference:.1e}.")
    return 0
