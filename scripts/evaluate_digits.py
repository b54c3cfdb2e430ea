"""Measure how many samples a classifier of the real digits can read, as `hf-wgan evaluate-digits` does.

python scripts/evaluate_digits.py wgan-digits
"""

from hf_wgan.cli.evaluate import evaluate_digits

if __name__ == "__main__":
    raise SystemExit(evaluate_digits())
