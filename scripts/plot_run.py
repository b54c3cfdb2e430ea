"""Plot the curves of one or several runs in one picture, as `hf-wgan plot` does.

python scripts/plot_run.py wgan-digits wgan-photos --output runs.png
"""

from hf_wgan.cli.plot import plot

if __name__ == "__main__":
    raise SystemExit(plot())
