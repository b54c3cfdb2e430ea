"""Pushes a trained model to the Hub, or finishes a push that failed.

python scripts/push_to_hub.py wgan-digits --hub_model_id me/wgan-digits --variant fp16
"""

from hf_wgan.cli.commands import push_to_hub

if __name__ == "__main__":
    raise SystemExit(push_to_hub(__doc__))
