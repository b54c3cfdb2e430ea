"""Generate images with a trained model, as `hf-wgan generate` does.

python scripts/generate.py wgan-digits --num_images 1000 --output_dir generated
"""

from hf_wgan.cli.generate import generate

if __name__ == "__main__":
    raise SystemExit(generate())
