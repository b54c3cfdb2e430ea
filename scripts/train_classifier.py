"""Train the classifier whose features scripts/evaluate.py compares, as `hf-wgan train-classifier` does.

python scripts/train_classifier.py --dataset_name path/to/fashion-mnist --resolution 32 --held_out_split test
"""

from hf_wgan.cli.evaluate import train_classifier

if __name__ == "__main__":
    raise SystemExit(train_classifier())
