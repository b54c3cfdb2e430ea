import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path
from typing import Self, get_overloads, get_type_hints

import pytest
from diffusers.pipelines import pipeline_loading_utils
from packaging.requirements import Requirement
from packaging.version import Version

import hf_wgan
from hf_wgan.models.factory import ARCHITECTURES
from hf_wgan.pipelines import pipeline_wgan

ROOT = Path(__file__).parents[1]


def test_importing_it_pulls_in_no_plotting_no_page_no_scikit_learn_and_no_datasets():
    # What diffusers itself imports where it is installed (SciPy, say) is none of ours.
    code = """
import sys, diffusers, diffusers.pipelines.pipeline_utils, diffusers.models
before = set(sys.modules)
from diffusers.pipelines import pipeline_loading_utils

import hf_wgan
from hf_wgan.models.factory import ARCHITECTURES
from hf_wgan.pipelines import pipeline_wgan
heavy = {"gradio", "matplotlib", "sklearn", "datasets", "pandas", "pyarrow", "scipy"}
print(sorted(heavy & (set(sys.modules) - before)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in hf_wgan.__all__:
        assert getattr(hf_wgan, name) is not None
    with pytest.raises(AttributeError, match="discriminator"):
        hf_wgan.discriminator  # noqa: B018


def test_a_loaded_pipeline_has_a_type():
    assert get_type_hints(hf_wgan.WGANPipeline.from_pretrained)["return"] is Self


def test_what_is_imported_is_declared():
    """But for a notebook's own module, and a tracker that a user chooses."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [project["optional-dependencies"][name] for name in ("train", "demo", "docs", "export")]
    words = [re.match(r"[\w.-]+", line)[0] for lines in (project["dependencies"], *extras) for line in lines]
    declared, distributions = {canonical(word) for word in words}, packages_distributions()
    for path in (ROOT / "hf_wgan").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
        for name in {module.partition(".")[0] for module in modules}:
            if name not in sys.stdlib_module_names | {"hf_wgan", "IPython", "trackio"}:
                assert declared & {canonical(word) for word in distributions.get(name, [name])}, f"{path}: {name}"


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_packages_of_an_extra_take_the_oldest_versions_that_are_stated_of_the_others():
    """As far as it is known here: of packages that are installed in the oldest version that is stated."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pairs = []
    for lines in project["optional-dependencies"].values():
        stated = map(Requirement, lines)
        oldest = {of.name: Version(bound.version) for of in stated for bound in of.specifier}
        for name in oldest:
            if Version(version(name)).release[:2] == oldest[name].release[:2]:
                needed = {of.name: of for of in map(Requirement, requires(name) or []) if of.marker is None}
                pairs += [(needed[other], oldest[other]) for other in needed.keys() & oldest.keys()]
    assert pairs
    assert not [f"{needed} excludes {other}" for needed, other in pairs if other not in needed.specifier]


def test_names_are_nouns_and_verbs_of_the_field():
    not_names = {"told", "mends", "found", "each", "room", "grave", "given", "made", "wanted", "some"}
    for folder in ("hf_wgan", "scripts", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
            names |= {getattr(node, "name", "") for node in ast.walk(tree)}
            assert not names & not_names, f"{path}: {names & not_names}"


def test_an_architecture_in_the_registry_needs_no_other_line_to_be_saved_and_loaded():
    networks = [network for pair in ARCHITECTURES.values() for network in pair]
    assert set(pipeline_loading_utils.LOADABLE_CLASSES["hf_wgan"]) == {network.__name__ for network in networks}
    for network in networks:
        assert hf_wgan.__getattr__(network.__name__) is network


def test_tests_and_benchmarks_use_no_name_with_a_leading_underscore():
    private = set()
    for path in (ROOT / "hf_wgan").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            stored = isinstance(getattr(node, "ctx", ast.Store()), ast.Store)
            names = [getattr(node, kind, None) for kind in ("name", "attr", "id") if stored]
            private |= {name for name in names if isinstance(name, str) and re.match(r"_[a-z]", name)}
    private -= {"_fields"}  # of every NamedTuple
    used = set()
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = {getattr(node, "name", None) for node in ast.walk(tree)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hf_wgan"):
                used |= {(path.name, name.name) for name in node.names if name.name in private}
            elif isinstance(node, ast.Attribute) and node.attr in private - own and ast.unparse(node.value) != "self":
                used.add((path.name, node.attr))
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr") and len(node.args) > 1:
                name = getattr(node.args[1], "value", None)
                used |= {(path.name, name)} if name in private else set()
    assert used == set()


TYPED = """
from hf_wgan import WGANPipeline

pipeline = WGANPipeline.from_pretrained("wgan-digits")
reveal_type(pipeline)
reveal_type(WGANPipeline.from_pipe(pipeline))
reveal_type(pipeline(batch_size=2))
reveal_type(pipeline(batch_size=2).images)
reveal_type(pipeline(batch_size=2, return_dict=False))
is_dict: bool = input() == "y"
reveal_type(pipeline(2, None, None, "pil", is_dict))
pipeline(16).images[0].save("digit.png")
"""


def test_type_checkers_know_what_a_pipeline_returns(tmp_path):
    (tmp_path / "code.py").write_text(TYPED)
    (tmp_path / "mypy.ini").write_text("[mypy]\nignore_missing_imports = true\n")  # whatever a user has installed
    words = ["-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "code.py"]
    environment = {**os.environ, "MYPYPATH": str(Path(hf_wgan.__file__).parents[1])}
    result = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    types = [line.split('"')[1] for line in result.stdout.splitlines() if "Revealed type" in line]
    assert result.returncode == 0, result.stdout
    assert types[:3] == ["hf_wgan.pipelines.published.WGANPipeline"] * 2 + [
        "diffusers.pipelines.pipeline_utils.ImagePipelineOutput"
    ]
    assert types[3].startswith("list[PIL.Image.Image] | numpy.ndarray") and types[4] == "tuple[Any]"
    assert types[5] == f"{types[2]} | tuple[Any]"


def test_what_type_checkers_see_of_a_pipeline_is_what_it_takes():
    actual = inspect.signature(pipeline_wgan.WGANPipeline.__call__).parameters
    overloads = get_overloads(inspect.unwrap(pipeline_wgan.WGANPipeline.__call__))
    assert len(overloads) == 3
    for overload in overloads:
        parameters = inspect.signature(overload).parameters
        assert list(parameters) == list(actual)
        for name in parameters.keys() - {"return_dict"}:
            seen = parameters[name].default, parameters[name].annotation
            assert seen == (actual[name].default, actual[name].annotation), name
