"""Serve a page to play with a trained model in a browser, as `hf-wgan demo` does.

python scripts/demo.py wgan-digits
"""

from hf_wgan.cli.demo import demo

if __name__ == "__main__":
    raise SystemExit(demo())
