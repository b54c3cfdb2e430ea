"""Trains the small classifier whose features scripts/evaluate.py compares, once for a dataset with labels.

python scripts/train_classifier.py --dataset_name path/to/fashion-mnist --resolution 32 --held_out_split test
"""

from hf_wgan.cli.commands import train_classifier

if __name__ == "__main__":
    raise SystemExit(train_classifier(__doc__))
