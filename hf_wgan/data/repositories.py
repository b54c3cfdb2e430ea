"""Dataset repositories of the Hub that hold image files, which are read as the folders that they are.

The datasets library reads them with `imagefolder`, to which a file called `train.png` is a split.
"""

import json
import re
from pathlib import Path

from huggingface_hub import HfApi, HfFileSystem, snapshot_download
from huggingface_hub.constants import HF_HUB_OFFLINE

from ..utils import files
from .config import DataConfig, cache_folder
from .folders import FolderSource, holds_images_only
from .trees import RepositoryTree, Tree, UnzippedTree


def open_repository(name: str, config: DataConfig) -> FolderSource | None:
    """Open a repository of image files, or of ZIP files of them.

    The files are downloaded once, into the Hub's cache; those of a stream are read from the Hub whenever they are
    needed. Without a network, what has been downloaded whole is opened.

    Returns:
        None if the datasets library has to tell what it is: it cannot be reached, it holds other files than images, or
        `dataset_config_name` or its card says which of its files to take.

    Raises:
        InputError: There is no such split or label column.
    """
    tree = None if config.dataset_config_name else _downloaded(name, config) if HF_HUB_OFFLINE else _tree(name, config)
    return None if tree is None else FolderSource(name, tree, config)


def _tree(name: str, config: DataConfig) -> Tree | None:
    try:
        repository = HfApi().dataset_info(name, revision=config.dataset_revision)
        assert repository.sha is not None
        paths = [file.rfilename for file in repository.siblings or ()]
        remote = UnzippedTree(RepositoryTree(name, repository.sha, paths))
        if not holds_images_only(remote.listing().files.paths) or _says_what_to_take(name, repository.sha, paths):
            return None
        if config.streaming:
            return remote
        folder = snapshot_download(name, repo_type="dataset", revision=repository.sha)
    except Exception:  # the datasets library meets it too, and says what to do about it
        return None
    record = _record(name, config)
    record.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(record, json.dumps({"commit": repository.sha, "paths": paths, "folder": folder}))
    return UnzippedTree(RepositoryTree(name, repository.sha, paths, folder))


def _says_what_to_take(name: str, commit: str, paths: list[str]) -> bool:
    """Return whether the head of the card lists files by configuration and split."""
    if "README.md" not in paths:
        return False
    card = HfFileSystem().read_text(f"datasets/{name}@{commit}/README.md", encoding="utf-8", errors="replace")
    head = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    return head is not None and re.search(r"^configs\s*:", head[1], re.MULTILINE) is not None


def _downloaded(name: str, config: DataConfig) -> Tree | None:
    """Return what `_tree` has downloaded before, if all of it is still there."""
    try:
        known = json.loads(_record(name, config).read_text(encoding="utf-8"))
        is_whole = all(Path(known["folder"], path).is_file() for path in known["paths"])
    except (OSError, ValueError):
        return None
    return UnzippedTree(RepositoryTree(name, **known)) if is_whole else None


def _record(name: str, config: DataConfig) -> Path:
    """Return the file that keeps where a repository has been downloaded to, and which files it has."""
    revision = config.dataset_revision or "main"
    words = re.sub(r"[^\w.-]", "_", f"{name}@{revision}")
    return cache_folder(config.cache_dir) / f"repository-{words}.json"
