"""Sorts the pictures of a package of emoji into a folder for each of their categories.

    npm install emoji-datasource-google
    python benchmarks/emoji.py node_modules/emoji-datasource-google emoji

`--train_data_dir emoji` then gives classes, and `benchmarks/presets.py` a classifier of them. The packages
`emoji-datasource-apple`, `-facebook` and `-twitter` have the same emoji in other drawings. With `--split 300` that many
pictures, drawn by the seed, go to one folder and the others to another: `emoji/some` and `emoji/others`.
"""

import argparse
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path


def pictures(package: Path) -> Iterator[tuple[str, Path]]:
    """Yield the category and the file of every emoji and its variations in skin colour, as far as there are files."""
    (drawn,) = (folder for folder in (package / "img").iterdir() if (folder / "64").is_dir())
    for entry in json.loads((package / "emoji.json").read_text()):
        for variant in (entry, *entry.get("skin_variations", {}).values()):
            path = drawn / "64" / variant["image"]
            if path.is_file():
                yield entry["category"].replace(" & ", "-and-"), path


def main(args: argparse.Namespace) -> None:
    emoji = sorted(pictures(Path(args.package)))
    random.Random(args.seed).shuffle(emoji)
    parts = {"": emoji} if args.split is None else {"some": emoji[: args.split], "others": emoji[args.split :]}
    for part, members in parts.items():
        for category, path in members:
            folder = Path(args.output_dir, part, category)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
        print(f"{Path(args.output_dir, part)}: {len(members):,} pictures")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", help="folder of the package")
    parser.add_argument("output_dir", help="folder to copy to")
    parser.add_argument("--split", type=int, help="pictures in a first part")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    main(parser.parse_args())
