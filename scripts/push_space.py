"""Create or update a Space on the Hub that serves the demo of a model, as `hf-wgan space` does.

python scripts/push_space.py me/wgan-digits --hub_space_id me/wgan-digits
"""

from hf_wgan.cli.publish import space

if __name__ == "__main__":
    raise SystemExit(space())
