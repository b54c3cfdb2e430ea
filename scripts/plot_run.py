"""Draws the curves of one run or several in one picture.

python scripts/plot_run.py wgan-digits wgan-other --output runs.png
"""

from hf_wgan.cli.commands import plot_run

if __name__ == "__main__":
    raise SystemExit(plot_run(__doc__))
