"""Makes a Space on the Hub that serves the demo of a model, or brings it up to date.

python scripts/push_space.py me/wgan-digits --hub_space_id me/wgan-digits
"""

from hf_wgan.cli.commands import push_space

if __name__ == "__main__":
    raise SystemExit(push_space(__doc__))
