"""Trains a Wasserstein GAN on images and leaves a diffusers pipeline, a sample grid and curves.

accelerate launch scripts/train_wgan.py                                        # scikit-learn's digits, minutes on a CPU
accelerate launch scripts/train_wgan.py --train_data_dir photos --resolution 64 --output_dir wgan-photos
accelerate launch scripts/train_wgan.py --dataset_name huggan/smithsonian_butterflies_subset --mixed_precision bf16
"""

from hf_wgan.commands import train

if __name__ == "__main__":
    raise SystemExit(train(__doc__))
