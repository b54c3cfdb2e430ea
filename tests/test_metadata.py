"""What a package says of itself on PyPI, built in clones of different origins."""

import email
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMIT = re.compile(r"[0-9a-f]{40}")


@pytest.fixture
def clone(tmp_path):
    """What a package is built of, as a repository of one commit."""
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("hf_wgan/version.py", "model_cards/template.md"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "hf_wgan" / "__init__.py").touch()
    who = ["-c", "user.name=A. Maintainer", "-c", "user.email=maintainer@example.com"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "All"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def built(folder, target):
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", target], cwd=folder, check=True)
    (file,) = (folder / "dist").glob("*.whl" if target == "wheel" else "*.tar.gz")
    return file


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        message = email.message_from_bytes(archive.read(name))
    urls = dict(line.split(", ") for line in message.get_all("Project-URL"))
    return urls, message.get_payload(decode=True).decode()


def test_pages_and_pictures_have_the_addresses_of_the_clone(clone, tmp_path_factory):
    address = "https://github.com/someone/hf-wgan"
    subprocess.run(["git", "remote", "add", "origin", "git@github.com:someone/hf-wgan.git"], cwd=clone, check=True)
    urls, text = metadata(built(clone, "wheel"))
    commit = COMMIT.search(urls["Source"])[0]
    assert urls["Homepage"] == address and urls["Paper"] == "https://arxiv.org/abs/1701.07875"
    assert set(urls) >= {"Documentation", "Changelog", "Issues"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links, own = (re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", content) for content in (readme, text))
    assert len(own) == len(links) and sum(bool(picture) for picture, _ in links) >= 3
    for (picture, target), (_, absolute) in zip(links, own):
        kind = "raw" if picture else "blob"
        relative = not target.startswith(("https://", "#"))
        assert absolute == (f"{address}/{kind}/{commit}/{target}" if relative else target)
        assert not relative or (ROOT / target.partition("#")[0]).exists()
    source = tmp_path_factory.mktemp("source")  # which has no clone around it
    with tarfile.open(built(clone, "sdist")) as archive:
        archive.extractall(source, filter="data")
    (folder,) = source.iterdir()
    assert metadata(built(folder, "wheel")) == (urls, text)


def test_elsewhere_the_readme_stays_as_it_is(clone):
    urls, text = metadata(built(clone, "wheel"))
    assert urls == {"Paper": "https://arxiv.org/abs/1701.07875"}
    assert text.strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


def test_a_folder_within_the_clone_of_something_else_has_not_its_addresses(clone):
    subprocess.run(["git", "remote", "add", "origin", "https://github.com/someone/other"], cwd=clone, check=True)
    names = [path.name for path in clone.iterdir() if path.name != ".git"]
    (clone / "vendored").mkdir()
    for name in names:
        (clone / name).rename(clone / "vendored" / name)
    urls, text = metadata(built(clone / "vendored", "wheel"))
    assert urls == {"Paper": "https://arxiv.org/abs/1701.07875"}
    assert text.strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize(
    "remote, address",
    [
        ("https://github.com/someone/hf-wgan", "https://github.com/someone/hf-wgan"),
        ("https://github.com/someone/hf-wgan.git", "https://github.com/someone/hf-wgan"),
        ("https://someone:token@gitlab.example.org/a/group/wgan.git/", "https://gitlab.example.org/a/group/wgan"),
        ("ssh://git@github.com/someone/hf-wgan.git", "https://github.com/someone/hf-wgan"),
        ("git@codeberg.org:someone/hf.wgan.git", "https://codeberg.org/someone/hf.wgan"),
        ("ssh://git@gitlab.example.org:2222/a/wgan.git", ""),
        ("https://gitlab.example.org:8443/a/wgan.git", ""),
        ("/home/someone/hf_wgan", ""),
        ("../hf_wgan.git", ""),
        ("file:///srv/hf_wgan.git", ""),
        ("backup:hf_wgan.git", ""),
        ("", ""),
    ],
)
def test_remotes_have_a_web_address_or_none(remote, address):
    assert hook().address_of(remote) == address


def hook():
    specification = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
