"""What choosing by the critic, the best of several or by rejection, does to the quality and the variety of samples.

    python benchmarks/candidates.py wgan-clothes --dataset_name path/to/fashion-mnist

Distances, precision and recall are those of `hf-wgan evaluate`, by a classifier of the dataset, against its test
split.
"""

import argparse
from pathlib import Path

import torch
from presets import first

from hf_wgan import WGANPipeline, load_images
from hf_wgan.data import DataConfig
from hf_wgan.data.cache import cache_folder
from hf_wgan.metrics.classifier import extract, load_or_train_classifier
from hf_wgan.metrics.distances import frechet_distance
from hf_wgan.metrics.neighbours import coverage
from hf_wgan.models.factory import shape_of


def main(args: argparse.Namespace) -> None:
    pipeline = WGANPipeline.from_pretrained(args.model)
    pipeline.set_progress_bar_config(disable=True)
    data = {"dataset_name": args.dataset_name, "resolution": shape_of(pipeline.generator)[1]}
    images, held_out = (load_images(DataConfig(**data, dataset_split=split)) for split in ("train", "test"))
    network, accuracy = load_or_train_classifier(Path(cache_folder(None), "time-to-quality"), images, held_out)
    real, _ = extract(network, first(held_out, args.num_images))
    print(f"{args.num_images:,} samples, a classifier that is right about {accuracy:.1%} of the test images\n")
    print("| | Fréchet distance | precision | recall | mean score |\n|---|---:|---:|---:|---:|")
    choices: list[tuple[str, dict]] = [("plain sampling", {})]
    for value in args.temperatures.split(","):
        choices.append((f"rejection, temperature {value}", {"rejection_temperature": float(value)}))
    choices += [(f"best of {value}", {"num_candidates": int(value)}) for value in args.candidates.split(",")]
    for name, choice in choices:
        rng = torch.Generator().manual_seed(args.seed)
        labels = pipeline.class_numbers(None, args.num_images, rng)
        images = pipeline(args.num_images, generator=rng, class_labels=labels, output_type="pt", **choice).images
        features, _ = extract(network, images * 2 - 1)
        precision, recall, *_ = coverage(real, features)
        distance, score = frechet_distance(real, features), pipeline.score(images, labels).mean()
        print(f"| {name} | {distance:.2f} | {precision:.3f} | {recall:.3f} | {score:.3f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a pipeline's folder")
    parser.add_argument("--dataset_name", required=True, help="that it was trained on, with labels and a test split")
    parser.add_argument("--candidates", default="2,4,8,16", help="how many an image, separated by commas")
    parser.add_argument("--temperatures", default="4,2,1", help="of rejection, separated by commas")
    parser.add_argument("--num_images", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())
