"""Export a trained model's generator, or critic, as one file for other tools, as `hf-wgan export` does.

python scripts/export.py wgan-digits --format onnx --output wgan-digits.onnx
"""

from hf_wgan.cli.export import export

if __name__ == "__main__":
    raise SystemExit(export())
