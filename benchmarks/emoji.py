"""Sorts the pictures of a package of emoji into a folder for each of their categories.

    npm install emoji-datasource-google
    python benchmarks/emoji.py node_modules/emoji-datasource-google emoji

`--train_data_dir emoji` then gives classes, and `benchmarks/presets.py` a classifier of them. The packages
`emoji-datasource-apple`, `-facebook` and `-twitter` have the same emoji in other drawings of 64 pixels. Those of
`openmoji` can have any `--size`, by `rsvg-convert` of Debian's `librsvg2-bin`. With `--split 300` that many pictures,
drawn by the seed, go to one folder and the others to another: `emoji/some` and `emoji/others`.
"""

import argparse
import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


def pictures(package: Path) -> Iterator[tuple[str, Path]]:
    """Yield the category and the file of every emoji and its variations in skin colour, as far as there are files."""
    if (package / "data" / "openmoji.json").is_file():
        for entry in json.loads((package / "data" / "openmoji.json").read_text()):
            yield entry["group"], package / "color" / "svg" / f"{entry['hexcode']}.svg"
        return
    (drawn,) = (folder for folder in (package / "img").iterdir() if (folder / "64").is_dir())
    for entry in json.loads((package / "emoji.json").read_text()):
        for variant in (entry, *entry.get("skin_variations", {}).values()):
            path = drawn / "64" / variant["image"]
            if path.is_file():
                yield entry["category"].replace(" & ", "-and-"), path


def save(path: Path, folder: Path, size: int) -> None:
    """Copy a picture to a folder; draw it where it is made of lines."""
    if path.suffix == ".svg":
        target = folder / path.with_suffix(".png").name
        lengths = ["--width", str(size), "--height", str(size)]
        subprocess.run(["rsvg-convert", *lengths, "--output", str(target), str(path)], check=True)
    else:
        shutil.copy(path, folder)


def main(args: argparse.Namespace) -> None:
    emoji = sorted(pictures(Path(args.package)))
    random.Random(args.seed).shuffle(emoji)
    parts = {"": emoji} if args.split is None else {"some": emoji[: args.split], "others": emoji[args.split :]}
    for part, members in parts.items():
        for category, path in members:
            folder = Path(args.output_dir, part, category)
            folder.mkdir(parents=True, exist_ok=True)
            save(path, folder, args.size)
        print(f"{Path(args.output_dir, part)}: {len(members):,} pictures")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", help="folder of the package")
    parser.add_argument("output_dir", help="folder to copy to")
    parser.add_argument("--size", type=int, default=64, help="height and width of drawings of openmoji, in pixels")
    parser.add_argument("--split", type=int, help="pictures in a first part")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    main(parser.parse_args())
