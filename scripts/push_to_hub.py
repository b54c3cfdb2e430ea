"""Push a trained model to the Hub, or finish a push that failed, as `hf-wgan push` does.

python scripts/push_to_hub.py wgan-digits --hub_model_id me/wgan-digits --variant fp16
"""

from hf_wgan.cli.publish import push

if __name__ == "__main__":
    raise SystemExit(push())
