"""Serves a page to play with a trained model in a browser: seeds, truncation, classes, films. This machine only.

python scripts/demo.py wgan-digits
"""

from hf_wgan.cli.commands import demo

if __name__ == "__main__":
    raise SystemExit(demo(__doc__))
