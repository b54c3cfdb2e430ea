# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.13",
#     "accelerate>=1.10",
#     "diffusers>=0.35",
#     "datasets>=4.0",
#     "huggingface_hub>=0.34",
#     "safetensors>=0.5",
#     "numpy>=2.0",
#     "pyarrow>=21.0",
#     "pillow>=10.1",
#     "filelock>=3.13",
#     "psutil>=5.9.6",
#     "pyyaml>=6.0.1",
#     "tqdm>=4.66.3",
#     "matplotlib>=3.9",
#     "pot>=0.9.5",
#     "scikit-learn>=1.8",
#     "scipy>=1.13",
# ]
#
# [tool.hf-jobs]
# volumes = ["./hf_wgan:/hf_wgan", "./model_cards:/model_cards"]
# ///
"""Train a Wasserstein GAN on images, as `hf-wgan train` does.

accelerate launch scripts/train_wgan.py                                        # scikit-learn's digits, minutes on a CPU
accelerate launch scripts/train_wgan.py --train_data_dir photos --preset wgan-color --output_dir wgan-photos
accelerate launch scripts/train_wgan.py --dataset_name huggan/smithsonian_butterflies_subset --mixed_precision bf16
uv run scripts/train_wgan.py                                                   # where nothing is installed
"""

import sys
from pathlib import Path

# Where hf_wgan is not installed, import it from the clone that holds this file.
sys.path.append(str(Path(__file__).resolve().parents[1]))

try:
    from hf_wgan.cli.train import train
except ModuleNotFoundError as error:
    if error.name != "hf_wgan":
        raise
    raise SystemExit(
        "error: hf_wgan is neither installed nor beside this file's folder; run it in a clone, or name one: "
        "uv run --with PATH_OR_ADDRESS_OF_A_CLONE train_wgan.py"
    ) from error

if __name__ == "__main__":
    raise SystemExit(train())
