"""Measures how many of a model's samples a classifier of the real digits can read, and how evenly over the ten kinds.

python scripts/evaluate_digits.py wgan-digits
"""

from hf_wgan.cli.commands import evaluate_digits

if __name__ == "__main__":
    raise SystemExit(evaluate_digits(__doc__))
