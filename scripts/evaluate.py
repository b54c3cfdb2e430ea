"""Measures how good a model's samples are, every figure in one pass.

python scripts/evaluate.py wgan-digits
python scripts/evaluate.py wgan-clothes --dataset_name path/to/fashion-mnist --held_out_split test
accelerate launch scripts/evaluate.py me/wgan-photos --train_data_dir photos --features timm:resnet50.a1_in1k
"""

from hf_wgan.cli.commands import evaluate

if __name__ == "__main__":
    raise SystemExit(evaluate(__doc__))
