"""Measure the quality of a model's samples, as `hf-wgan evaluate` does.

python scripts/evaluate.py wgan-digits
python scripts/evaluate.py wgan-clothes --dataset_name path/to/fashion-mnist --held_out_split test
accelerate launch scripts/evaluate.py me/wgan-digits --train_data_dir photos --features pixels
"""

from hf_wgan.cli.evaluate import evaluate

if __name__ == "__main__":
    raise SystemExit(evaluate())
