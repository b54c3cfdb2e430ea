"""The model card, filled from a run's own record."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

_BESIDE = Path(__file__).with_name("model_card_template.md")  # where the wheel has it
_IN_CHECKOUT = Path(__file__).parents[2] / "model_cards" / "template.md"


def write_card(output_dir: Path, description: dict[str, Any], metrics: list[dict[str, Any]]) -> None:
    """Writes `output_dir/README.md`.

    Args:
        output_dir: A run's folder.
        description: The content of its `training_config.json`.
        metrics: The lines of its `metrics.jsonl`.
    """
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["hf_wgan", "wgan", "gan", "wasserstein", "unconditional-image-generation"],
    )
    samples = sorted((output_dir / "samples").glob("step-*.png"))
    card = ModelCard.from_template(
        data,
        template_path=str(_BESIDE if _BESIDE.is_file() else _IN_CHECKOUT),
        name=output_dir.resolve().name,
        sample_grid=f"samples/{samples[-1].name}" if samples else None,
        curves="curves.png" if (output_dir / "curves.png").is_file() else None,
        last=metrics[-1] if metrics else None,
        **description,
    )
    card.save(output_dir / "README.md")
