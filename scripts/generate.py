"""Generates images with a trained model, from a folder, from the Hub, or from a file that scripts/export.py wrote.

python scripts/generate.py wgan-digits --num_images 1000 --output_dir generated
"""

from hf_wgan.cli.commands import generate

if __name__ == "__main__":
    raise SystemExit(generate(__doc__))
