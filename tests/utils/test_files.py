"""Replacing files at once."""

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from hf_wgan.utils import files, linux

FULL = {
    "a write": (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: .*card.md"),
    "safetensors": (
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        "No space left on device: .*card.md",
    ),
    "PyTorch": (
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        "card.md cannot be wr",
    ),
}


@pytest.mark.parametrize("replacing", [files.replacing, files.replacing_in])
@pytest.mark.parametrize("of", FULL)
def test_a_full_disk_is_one_line_that_names_the_file_and_the_old_one_stays(of, replacing, tmp_path):
    error, line = FULL[of]
    path = tmp_path / "card.md"
    old = path if replacing is files.replacing else path / "old"
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")
    with pytest.raises(OSError, match=line), replacing(path) as temporary:
        (temporary if temporary.suffix else temporary / "old").write_text("ne")
        raise error
    assert old.read_text() == "old" and [each.name for each in old.parent.iterdir()] == [old.name]


def test_other_errors_are_left_as_they_are(tmp_path):
    with pytest.raises(ValueError, match=r"^mine$"), files.replacing(tmp_path / "a"):
        raise ValueError("mine")
    assert not list(tmp_path.iterdir())


def test_what_is_yielded_ends_as_the_file_does(tmp_path):
    """Libraries choose the format by it."""
    with files.replacing(tmp_path / "walk.webp") as temporary:
        assert temporary.suffix == ".webp" and temporary.name.startswith(".")
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["walk.webp"]


def test_a_file_that_a_library_keeps_private_gets_the_permissions_of_a_new_one(tmp_path):
    (tmp_path / "new").touch()
    with files.replacing(tmp_path / "a.safetensors") as temporary:
        save_file({"a": np.zeros(1)}, temporary)
    with files.replacing_in(tmp_path / "b") as folder:
        save_file({"a": np.zeros(1)}, folder / "b.safetensors")
    saved = [tmp_path / "a.safetensors", tmp_path / "b" / "b.safetensors"]
    assert {path.stat().st_mode for path in saved} == {(tmp_path / "new").stat().st_mode}


def test_a_folder_that_was_created_as_a_private_one_gets_them_too(tmp_path):
    private, new = Path(tempfile.mkdtemp(dir=tmp_path)), tmp_path / "new"
    new.mkdir()
    files.permit(private)
    assert private.stat().st_mode == new.stat().st_mode


@pytest.mark.skipif(not linux.STATUS.exists(), reason="no Linux")
def test_what_is_private_since_the_import_stays_private(tmp_path):
    before = os.umask(0o077)
    try:
        with files.replacing(tmp_path / "a.safetensors") as temporary:
            save_file({"a": np.zeros(1)}, temporary)
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o600


def test_where_the_system_does_not_tell_files_get_the_permissions_of_the_import(tmp_path, monkeypatch):
    monkeypatch.setattr(linux, "STATUS", tmp_path / "missing")
    (tmp_path / "new").touch()
    (tmp_path / "private").touch(0o600)
    files.permit(tmp_path / "private")
    assert (tmp_path / "private").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_what_a_killed_process_left_counts_as_nothing_and_is_removed(tmp_path):
    (tmp_path / ".card.1.tmp.md").write_text("ha")
    (tmp_path / ".saving-abc").mkdir()
    (tmp_path / files.LOCK).touch()
    assert files.is_unused(tmp_path)
    with files.replacing_in(tmp_path):
        pass
    assert not (tmp_path / ".saving-abc").exists()
    (tmp_path / "mine").touch()
    assert not files.is_unused(tmp_path)


def test_a_temporary_file_is_not_written_through_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    os.symlink(victim, tmp_path / f".card.{os.getpid()}.tmp.md")
    files.write_text(tmp_path / "card.md", "new")
    assert victim.read_text() == "mine" and (tmp_path / "card.md").read_text() == "new"
