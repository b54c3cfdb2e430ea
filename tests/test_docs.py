"""Every block of code in the documentation runs, in a folder with the files that the pages name.

Networks are small and steps few. For commands that would take hours, or need something that tests do not have, only the
arguments are checked.
"""

import argparse
import inspect
import re
import runpy
import shlex
import shutil
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import sphinx.cmd.build
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from conftest import pictures
from datasets import Dataset
from hub_server import hub
from test_convert import Run as OriginalRun

import hf_wgan
from hf_wgan.algorithm.augment import OPERATIONS
from hf_wgan.algorithm.latents import PRIORS
from hf_wgan.algorithm.lipschitz import CONSTRAINTS
from hf_wgan.cli.launch import LaunchOptions
from hf_wgan.cli.main import COMMANDS
from hf_wgan.cli.train import train as train_command
from hf_wgan.hub.publish import Push, push_folder
from hf_wgan.utils import errors
from hf_wgan.utils.options import OptionParser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGE = ROOT / "hf_wgan"
NAMED = re.compile(r"# (\w+\.(?:py|yaml))\n")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
REGISTRIES = (CONSTRAINTS, OPERATIONS, PRIORS)
SMALL = {
    "train": "--max_train_steps 2 --train_batch_size 8 --generator_width 8 --critic_width 8 --n_critic 1 "
    "--num_validation_images 4 --overwrite_output_dir",
    "evaluate": "--num_images 60 --features pixels",
    "evaluate-digits": "--num_images 50",
    "generate": "--overwrite_output_dir",
}
ARGUMENTS_ONLY = {"demo": "serves until it is stopped; tests/pipelines/test_demo_in_browser.py opens it"}
NOT_RUN = {
    "npm": "downloads a package",
    "pip": "the environment exists",
    "pytest": "is running already",
    "python -m venv": "the environment exists",
    "source": "the environment exists",
    "hf": "asks for a person's token",
    "sphinx-build": "a test of its own, below",
    "tensorboard": "serves until it is stopped",
}


class ArgumentsParsed(Exception):
    pass


def blocks(page):
    return [(kind, code) for kind, code in FENCED.findall(page.read_text()) if kind in ("bash", "python", "yaml")]


def commands_of(code):
    """Split a shell block into its commands, each a list of words."""
    lines = code.replace("\\\n", " ").replace(" && ", "\n").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def train(words):
    AcceleratorState._reset_state(True)  # as in a process of its own
    _, words = OptionParser(LaunchOptions).parse_known_args(words)  # this process trains
    evaluation = ["--num_evaluation_images", "60", "--evaluation_features", "pixels"]
    evaluated = evaluation if "--evaluation_steps" in words else []
    assert train_command([*words, *SMALL["train"].split(), *evaluated]) == 0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Create the files that the pages name, small."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    emoji = [f"emoji/{part}/{category}" for part in ("some", "others") for category in ("faces", "flags")]
    for place in ("photos", "node_modules/emoji-datasource-google/img/google/64", *emoji):
        (folder / place).mkdir(parents=True)
        for number, picture in enumerate(pictures(20, size=(64, 64))):
            picture.save(folder / place / f"{number}.png")
    # A local folder instead of a dataset on the Hub; tests/data/test_hub_datasets.py loads those by name.
    for name in ("user/dataset", "huggan/smithsonian_butterflies_subset"):
        (folder / name).mkdir(parents=True)
        Dataset.from_dict({"image": pictures(8, size=(32, 32))}).to_parquet(folder / name / "train.parquet")
    for prefix in ("train", "t10k"):
        clothes = folder / "path" / "to" / "fashion-mnist"
        write_idx(clothes / f"{prefix}-images-idx3-ubyte", rng.integers(0, 256, (80, 28, 28)))
        write_idx(clothes / f"{prefix}-labels-idx1-ubyte", np.arange(80) % 10)
    clothes = ["--dataset_name", str(clothes), "--resolution", "32", "--output_dir", str(folder / "wgan-clothes")]
    train(clothes)
    train(["--output_dir", str(folder / "wgan-digits")])
    train(["--train_data_dir", str(folder / "photos"), "--output_dir", str(folder / "wgan-photos")])
    OriginalRun(folder).save()
    return folder


@pytest.fixture(scope="module")
def published(prepared, tmp_path_factory):
    """Serve a Hub with the models that the pages name."""
    with hub() as server, server.online("hf_me", tmp_path_factory.mktemp("cache")):
        for name in ("me/model", "me/wgan-digits"):
            push_folder(prepared / "wgan-digits", Push(name, variant="fp16"))
        yield


@pytest.fixture
def workspace(prepared, published, short_training, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(prepared, tmp_path / "workspace"))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)  # for the modules that a page writes
    before = [dict(registry) for registry in REGISTRIES]
    yield folder
    for registry, entries in zip(REGISTRIES, before):
        registry.clear()
        registry.update(entries)
    for name in (path.stem for path in folder.glob("*.py")):
        sys.modules.pop(name, None)


def in_short(words):
    """Return a command in the form `hf-wgan train …`."""
    launch = ["accelerate", "launch", "scripts/train_wgan.py"]
    return ["hf-wgan", "train", *words[3:]] if words[:3] == launch else words


def then_stop(parse):
    def parse_and_stop(*args, **kwargs):
        parse(*args, **kwargs)
        raise ArgumentsParsed

    return parse_and_stop


def parse_only(run, monkeypatch):
    """Run something up to the point where its arguments are parsed."""
    with monkeypatch.context() as patch:
        for owner, name in ((argparse.ArgumentParser, "parse_args"), (OptionParser, "parse")):
            patch.setattr(owner, name, then_stop(getattr(owner, name)))
        with pytest.raises(ArgumentsParsed):
            run()


def run_subcommand(name, arguments, monkeypatch):
    assert name in COMMANDS, f"hf-wgan {name}"
    module, function, _ = COMMANDS[name]
    command = getattr(import_module(f"hf_wgan.cli.{module}"), function)
    if name == "train":
        train(arguments)
    elif name in ARGUMENTS_ONLY:
        parse_only(lambda: command(arguments), monkeypatch)
    else:
        assert command([*arguments, *SMALL.get(name, "").split()]) == 0, f"hf-wgan {name} {' '.join(arguments)}"


def run_command(words, monkeypatch):
    while "=" in words[0]:  # an environment variable
        words = words[1:]
    if words[:2] == ["accelerate", "launch"]:
        launched = launch_command_parser().parse_args(words[2:])
        words = ["python", *["-m"] * launched.module, launched.training_script, *launched.training_script_args]
    if words[:3] == ["python", "-m", "hf_wgan"]:
        words = ["hf-wgan", *words[3:]]
    if words[0] == "hf-wgan":
        run_subcommand(words[1], words[2:], monkeypatch)
    elif words[:3] == ["uv", "run", "scripts/train_wgan.py"]:
        train(words[3:])
    elif "examples/slurm.sh" in words:
        train(words[words.index("examples/slurm.sh") + 1 :])
    elif words[0] == "python" and words[1].startswith("benchmarks/"):
        monkeypatch.setattr(sys, "argv", words[1:])
        monkeypatch.syspath_prepend(str((ROOT / words[1]).parent))
        parse_only(lambda: runpy.run_path(str(ROOT / words[1]), run_name="__main__"), monkeypatch)
    else:
        assert any(" ".join(words).startswith(name) for name in NOT_RUN), f"{words}: a test does not know what to do"
        if words[0] == "pip":
            assert Path(ROOT, words[words.index("-c") + 1]).is_file() if "-c" in words else True


def test_the_examples_in_the_help_of_every_command_run(workspace, monkeypatch):
    for module, function, _ in COMMANDS.values():
        help_text = inspect.getdoc(getattr(import_module(f"hf_wgan.cli.{module}"), function))
        examples = re.findall(r"^hf-wgan .*", help_text, re.MULTILINE)
        assert examples, function
        for words in commands_of("\n".join(examples)):
            run_command(words, monkeypatch)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_every_block_of_code_runs(page, workspace, monkeypatch):
    names = {}
    for kind, code in blocks(page):
        if name := NAMED.match(code):  # the block is this file
            Path(name[1]).write_text(code)
        elif kind == "python":
            code = code.replace("TrainingConfig(", "TrainingConfig(max_train_steps=1, train_batch_size=8, ")
            code = code.replace("(sample_size=64)", "(sample_size=64, width=8)")
            code = code.replace("RunConfig.resolve(", "RunConfig.resolve(max_train_steps=1, train_batch_size=8, ")
            exec(compile(code, str(page), "exec"), names)
        else:
            for words in commands_of(code):
                run_command(words, monkeypatch)


def test_whoever_copies_an_example_for_a_folder_of_photos_trains_with_a_preset():
    """Rather than with the settings of 2017, which a line at the start then advises against."""
    texts = [*PAGES, *(ROOT / "scripts").glob("*.py"), PACKAGE / "cli" / "train.py"]
    lines = [line for path in texts for line in path.read_text(encoding="utf-8").splitlines()]
    examples = [line for line in lines if re.search(r"(hf-wgan train|train_wgan\.py) .*--train_data_dir photos", line)]
    assert len(examples) > 4 and not [line for line in examples if "--preset" not in line]


def test_every_page_is_in_the_contents_and_every_link_leads_somewhere():
    contents = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "index" or f"\n{page.stem}\n" in contents, page.name
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_architecture_names_every_file_of_the_package_and_no_other():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named, folder = [], None
    for line in page.splitlines():
        if heading := re.match(r"\| \*\*`(hf_wgan/(?:\w+/)?)`\*\*", line):
            folder = heading[1]
        elif folder and line.startswith("| `"):
            named += [folder + name for name in re.findall(r"`(\w+\.py)`", line.split("|")[1])]
    files = [path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")]
    assert sorted(named) == sorted(name for name in files if not re.fullmatch(r"hf_wgan/\w+/__init__.py", name))
    for name in re.findall(r"`((?:\w+/)+\w+\.\w+)`", page):
        assert (ROOT / name).is_file() or (PACKAGE / name).is_file(), name


@pytest.mark.parametrize("card", sorted((ROOT / "model_cards").glob("*/README.md")), ids=lambda card: card.parent.name)
def test_a_card_has_its_pictures_and_is_of_the_command_in_the_recipes(card):
    page = ROOT / "docs" / "recipes.md"
    recipes = [words for kind, code in blocks(page) if kind == "bash" for words in commands_of(code)]
    [made_by] = [words for kind, code in blocks(card) if kind == "bash" for words in commands_of(code)]
    assert in_short(made_by) in map(in_short, recipes)
    pictures_of_card = re.findall(r"!\[.*?\]\((.*?)\)", card.read_text())
    assert pictures_of_card and all((card.parent / picture).is_file() for picture in pictures_of_card)


def test_every_public_name_and_every_error_is_in_the_reference():
    reference = (ROOT / "docs" / "api.md").read_text()
    raised = [name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)]
    for name in [*hf_wgan.__all__, *raised]:
        assert name == "__version__" or re.search(rf"\b{name}\b", reference), name


def test_the_site_is_built_without_a_warning(tmp_path):
    assert sphinx.cmd.build.main(["-q", "-W", "--keep-going", str(ROOT / "docs"), str(tmp_path / "site")]) == 0
    api = (tmp_path / "site" / "api.html").read_text()
    assert "HIGH_IS_REAL" in api and ">Type<" not in api, "the words before a colon were taken for a type"
    front = (tmp_path / "site" / "index.html").read_text()
    assert "quick_start.html" in front and "wgan-fast-classes.png" in front
    assert "num_candidates" in (tmp_path / "site" / "api.html").read_text()
