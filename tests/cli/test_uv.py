"""Training from the one file: by uv, and as a job on Hugging Face's machines."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import huggingface_hub
import pytest
from packaging.requirements import Requirement
from processes import SMALL

from hf_wgan import WGANPipeline

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "train_wgan.py"
FEW_STEPS = [*SMALL, "--train_batch_size", "8", "--max_train_steps", "2"]


def metadata():
    """The script's inline metadata (PEP 723)."""
    lines = SCRIPT.read_text().splitlines()
    block = lines[lines.index("# /// script") + 1 : lines.index("# ///")]
    return tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in block))


def run(command, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("UV_")}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env={**kept, **environment})


def test_the_script_asks_for_what_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata()["requires-python"] == project["requires-python"]
    assert metadata()["dependencies"] == project["dependencies"] + project["optional-dependencies"]["train"]


def wheel(folder, name, **files):
    """A package of the version that is installed here, with nothing but some files."""
    stem = f"{name.replace('-', '_')}-{version(name).partition('+')[0]}"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {stem.rpartition('-')[2]}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, **{f"{stem}.dist-info/{each}": text for each, text in about.items()}}.items():
            archive.writestr(path, text)


@pytest.fixture
def stand_ins(tmp_path):
    """Wheels that lead to the packages of this environment, so that uv makes one of its own from no index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    here = "\n".join(path for path in sys.path if Path(path).name in ("site-packages", "dist-packages"))
    for requirement in metadata()["dependencies"]:
        name = Requirement(requirement).name
        wheel(folder, name, **({"here.pth": here} if name == "torch" else {}))
    return folder


def test_uv_trains_with_the_file_and_the_folders_that_a_job_has(stand_ins, tmp_path):
    root = tmp_path / "machine"
    (root / "data").mkdir(parents=True)  # where jobs have the script
    shutil.copy(SCRIPT, root / "data")
    for volume in metadata()["tool"]["hf-jobs"]["volumes"]:
        source, _, mount = volume.partition(":/")
        (root / mount).symlink_to(ROOT / source, target_is_directory=True)
    uv = {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(stand_ins), "UV_CACHE_DIR": str(tmp_path / "cache")}
    uv |= {"UV_NO_CONFIG": "1", "UV_PYTHON": sys.executable, "UV_OFFLINE": "1"}
    command = [sys.executable, "-m", "uv", "run", root / "data" / "train_wgan.py", *FEW_STEPS]
    result = run([*command, "--output_dir", root / "data" / "run"], OMP_NUM_THREADS="1", **uv)
    assert result.returncode == 0, result.stderr
    assert len(WGANPipeline.from_pretrained(root / "data" / "run")(2).images) == 2
    assert f"uv run {root}" in (root / "data" / "run" / "training_config.json").read_text()


@pytest.mark.skipif(
    huggingface_hub.__version__.startswith(("0.", "1.")), reason="it knows no launch configuration in a script"
)
def test_hf_jobs_takes_the_folders_along_and_hands_the_arguments_on():
    hf = [Path(sys.executable).parent / "hf", "jobs", "uv", "run", "--dry-run", "--flavor", "t4-small"]
    result = run([*hf, SCRIPT, "--output_dir", "/data/run", "--seed", "1"])
    assert result.returncode == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert "args --output_dir /data/run --seed 1" in said
    for volume in metadata()["tool"]["hf-jobs"]["volumes"]:
        assert f"{volume} (from script)" in said
        assert (ROOT / volume.partition(":")[0]).is_dir()


def test_alone_the_file_says_what_it_lacks(tmp_path):
    shutil.copy(SCRIPT, tmp_path / "train_wgan.py")
    result = run([sys.executable, "-S", tmp_path / "train_wgan.py"])  # without what is installed
    assert result.returncode != 0
    assert result.stderr.startswith("error: hf_wgan is neither installed nor beside") and result.stderr.count("\n") == 1
    assert "uv run --with" in result.stderr
