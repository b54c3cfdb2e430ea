"""What the files of a run are called, once."""

from pathlib import Path

INDEX = "model_index.json"
CARD = "README.md"
CONFIG = "training_config.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
SAMPLES = "samples"
CURVES = "curves.png"
NETWORKS = ("generator", "critic")
CHECKPOINTS = "checkpoint-*"
CARRIED_CODE = "hf_wgan_*.py"


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = {path: path.name.rpartition("-")[2] for path in output_dir.glob(CHECKPOINTS)}
    return sorted((path for path, number in found.items() if number.isdecimal()), key=lambda path: int(found[path]))
