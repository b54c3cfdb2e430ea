"""Exports a trained model's generator, or critic, as one file for other tools, and checks that it does the same.

python scripts/export.py wgan-digits --format onnx --output wgan-digits.onnx
python scripts/generate.py wgan-digits.onnx --num_images 16 --seed 0
"""

from hf_wgan.cli.commands import export

if __name__ == "__main__":
    raise SystemExit(export(__doc__))
