"""What the files of a run are called, once."""

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
