"""Networks of one's own: their code travels with the model, and every way of loading that is stated works."""

import importlib
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from conftest import tiny_critic, tiny_generator
from hub_server import hub
from processes import ended, start

from hf_wgan import InputError, WGANPipeline
from hf_wgan.hub.card import make_card
from hf_wgan.hub.code import code_of
from hf_wgan.hub.publish import Push, push_folder
from hf_wgan.pipelines import published

LAYERS = '''
"""Layers of my own."""

import torch
from torch import nn

SLOPE = 0.1


def activation():
    return nn.LeakyReLU(SLOPE)
'''
NETWORKS = '''
"""My networks, "quoted" and with a \\\\ in the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch as pytorch
from diffusers.configuration_utils import register_to_config
from hf_wgan import DCGANCritic as Base
from hf_wgan.algorithm.latents import LatentPrior
from hf_wgan.models.network import Network
from torch import nn

from {layers} import activation as nonlinearity

if TYPE_CHECKING:
    from hf_wgan.training import TrainingConfig


class SignPrior(LatentPrior):
    def __call__(self, normals):
        return pytorch.where(normals < 0, -1.0, 1.0)


class MyGenerator(Network):
    @register_to_config
    def __init__(self, sample_size=8, out_channels=1, latent_dim=3, latent_prior: str = "SignPrior"):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(latent_dim, 64), nonlinearity())

    def forward(self, latents: pytorch.Tensor) -> pytorch.Tensor:
        return self.layer(latents).view(-1, 1, 8, 8)


class MyCritic(Base):
    """Attention for nobody."""
'''
LOAD = """
import sys, torch
{lines}
torch.save((pipeline(4, generator=torch.Generator().manual_seed(0), output_type="pt").images,
            pipeline.score(images[:2]), type(pipeline.generator).__module__), sys.argv[1])
"""


@pytest.fixture
def import_module(monkeypatch):
    """Import a module from a folder, and forget it at the end."""
    before = set(sys.modules)

    def load(folder, name):
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and "pytest" in str(sys.modules[name].__file__):
            del sys.modules[name]


def write(folder, **sources):
    for name, source in sources.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    return folder


@pytest.fixture(params=["a module", "a package"])
def mine(request, tmp_path, import_module):
    """The author's pipeline, the name of the module and the name under which its code is carried."""
    author = tmp_path / "author"
    if request.param == "a module":
        write(author, mylayers=LAYERS, mynets=NETWORKS.format(layers="mylayers"))
        name, carried = "mynets", "mynets"
    else:
        write(author, mypackage__layers=LAYERS, mypackage__nets=NETWORKS.format(layers=".layers"))
        (author / "mypackage" / "__init__.py").write_text("")
        name, carried = "mypackage.nets", "mypackage_nets"
    module = import_module(author, name)
    torch.manual_seed(0)
    return WGANPipeline(module.MyGenerator(), module.MyCritic(8, 1, 8)), name, carried


def results(pipeline):
    images = pipeline(16, generator=torch.Generator().manual_seed(0)).images
    return (
        pipeline(4, generator=torch.Generator().manual_seed(0), output_type="pt").images,
        pipeline.score(images[:2]),
    )


def usage(card):
    return [block.split("```")[0] for block in card.split("```python\n")[1:]]


def run(lines, output, path=(), **environment):
    environment = {**os.environ, **environment}
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, path), environment.get("PYTHONPATH", "")])
    code = LOAD.format(lines=lines)
    subprocess.run([sys.executable, "-c", code, str(output)], env=environment, check=True, cwd=output.parent)
    return torch.load(output)


def test_every_way_of_loading_that_the_card_states_works_in_a_new_process(mine, tmp_path):
    pipeline, name, carried = mine
    expected = results(pipeline)
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        pipeline.push_to_hub("me/mine")
        published_files = server.files("me/mine")
        environment = {**server.environment("hf_me"), "HF_HOME": str(tmp_path / "home")}
        by_module, alone = usage(published_files["README.md"].decode())
        assert f"import {carried}\n" in by_module and "trust_remote_code=True" in alone
        # A stranger who has read the carried file and put it where Python finds it.
        stranger = tmp_path / "stranger"
        stranger.mkdir()
        (stranger / f"{carried}.py").write_bytes(published_files[f"generator/{carried}.py"])
        for number, (lines, path) in enumerate(
            [
                (by_module, [stranger]),
                (alone + "pipeline.score = lambda images: WGANPipeline(**pipeline.components).score(images)\n"
                 "from hf_wgan import WGANPipeline\n", []),
                (by_module.replace(f"import {carried}\n", f"import {name}\n"), [tmp_path / "author"]),
            ]
        ):  # fmt: skip
            images, scores, module = run(lines, tmp_path / f"found-{number}", path, **environment)
            assert torch.equal(images, expected[0]) and torch.equal(scores, expected[1])
            assert module.startswith("diffusers_modules.") == (number == 1)
    assert published_files["generator/" + carried + ".py"] == published_files[f"critic/{carried}.py"]


def test_carried_code_of_ones_own_names_its_files_and_not_where_they_are(mine, tmp_path):
    pipeline, name, carried = mine
    pipeline.save_pretrained(tmp_path / "model")
    source = (tmp_path / "model" / "critic" / f"{carried}.py").read_text()
    assert f"{name.replace('.', '/')}.py\n" in source and "hf_wgan/models/dcgan.py (hf_wgan, Apache-2.0)" in source
    assert str(tmp_path) not in source and "from hf_wgan" not in source and "TYPE_CHECKING:" not in source
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["critic"] == [carried, "MyCritic"]
    assert index["_source_modules"] == {"generator": name, "critic": name}


def test_a_model_whose_module_is_not_imported_says_what_loads_it(mine, tmp_path, monkeypatch):
    pipeline, name, _ = mine
    pipeline.save_pretrained(tmp_path / "model")
    for module in [module for module in sys.modules if module.startswith(("mynets", "mypackage"))]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(InputError) as error:
        WGANPipeline.from_pretrained(tmp_path / "model")
    for words in (f"the module {name} is not imported", f"`import {name}`", f"--import {name}", "\n"):
        assert (words in str(error.value)) == (words != "\n")
    assert f"DiffusionPipeline.from_pretrained('{tmp_path / 'model'}', trust_remote_code=True)" in str(error.value)
    critic = WGANPipeline.from_pretrained(tmp_path / "model", generator=tiny_generator(), critic=None).critic
    assert critic is None, "what is passed is not looked up"
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        with pytest.raises(InputError, match=f"{name}, which is not imported.*--import {name}"):
            push_folder(tmp_path / "model", Push("me/mine"))
        assert "me/mine" not in server.repositories


def test_a_push_publishes_the_code_of_the_imported_module_and_never_the_file(mine, tmp_path):
    pipeline, _, carried = mine
    pipeline.save_pretrained(tmp_path / "model")
    genuine = (tmp_path / "model" / "critic" / f"{carried}.py").read_bytes()
    for path in [*(tmp_path / "model").rglob("*.py"), tmp_path / "model" / "hf_wgan_x.py"]:
        path.write_text("EVIL = 1")
    (tmp_path / "model" / "critic" / "helper.py").write_text("EVIL = 2")
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        push_folder(tmp_path / "model", Push("me/mine"))
        assert not [name for name, data in server.files("me/mine").items() if b"EVIL" in data]
        assert server.files("me/mine")[f"critic/{carried}.py"] == genuine


NOT_SELF_CONTAINED = {
    "import of a local module as a whole": ("import mylayers\n", "use `from mylayers import ...`"),
    "import in a function": ("def late():\n    from mylayers import SLOPE\n", "import it at the top of the module"),
    "a name twice": ("from mylayers import activation\n\nSLOPE = 0.3\n", "SLOPE means one thing in"),
    "a constant from the package": ("from hf_wgan.algorithm import PRIORS\n", "import it from the module that defines"),
}


@pytest.mark.parametrize("kind", NOT_SELF_CONTAINED)
def test_code_that_cannot_travel_is_a_clear_word_and_the_model_still_loads(
    kind, tmp_path, import_module, monkeypatch, capsys
):
    monkeypatch.setattr(published, "SAID", set())
    source, reason = NOT_SELF_CONTAINED[kind]
    header = "from hf_wgan import DCGANCritic\n"
    write(tmp_path, mylayers=LAYERS, mynets2=header + source + "\n\nclass MyCritic(DCGANCritic):\n    pass\n")
    module = import_module(tmp_path, "mynets2")
    pipeline = WGANPipeline(tiny_generator(), module.MyCritic(8, 1, 8))
    for _ in range(2):
        pipeline.save_pretrained(tmp_path / "model")
    said = capsys.readouterr().err
    assert said.count(reason) == 1 and "its code is not saved with the model" in said
    assert not list((tmp_path / "model" / "critic").glob("*.py"))
    assert type(WGANPipeline.from_pretrained(tmp_path / "model").critic) is module.MyCritic
    (lines,) = usage(make_card(tmp_path / "model", "me/mine"))
    assert "import mynets2\n" in lines
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        push_folder(tmp_path / "model", Push("me/mine"))
        assert "The code of the critic (mynets2.MyCritic) is not pushed" in capsys.readouterr().err
        exec(lines, {})


DEFINITIONS = """
import torch
from conftest import tiny_critic, tiny_generator
from hf_wgan import DCGANCritic, WGANPipeline
class MyCritic(DCGANCritic): pass
"""


def run_cell(code, log):
    """Run code in `__main__`, below what a notebook defines there."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    main = sys.modules["__main__"]
    main.__name__ = "__main__"  # multiprocessing calls it otherwise
    exec(DEFINITIONS + code, vars(main))


def test_a_network_of_a_notebook_says_how_it_is_loaded_again_and_that_works(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(published, "SAID", set())
    folder, log = str(tmp_path / "model"), tmp_path / "log"
    cell = "WGANPipeline(tiny_generator(), MyCritic(8, 1, 8)).save_pretrained({!r})"
    assert ended([start(run_cell, cell.format(folder), str(log))]) == [0], log.read_text()
    said = log.read_text()
    assert "MyCritic is defined in a notebook or script" in said
    stated = said[said.index("WGANPipeline.from_pretrained(") : said.index(" loads the model")]
    for lines in (stated, f"WGANPipeline.from_pretrained({folder!r})", *usage(make_card(tmp_path / "model", folder))):
        assert ended([start(run_cell, lines, str(log))]) == [0], log.read_text()
    with pytest.raises(InputError, match="a class of a notebook or script: define it here"):
        WGANPipeline.from_pretrained(folder)


def test_a_prior_in_another_module_is_a_clear_word(tmp_path, import_module, monkeypatch, capsys):
    monkeypatch.setattr(published, "SAID", set())
    source = "from hf_wgan.algorithm.latents import LatentPrior\n\n\nclass Mine(LatentPrior):\n    pass\n"
    import_module(write(tmp_path, mypriors=source), "mypriors")
    WGANPipeline(tiny_generator(latent_prior="mypriors:Mine")).save_pretrained(tmp_path / "model")
    assert "latent_prior='mypriors:Mine' is not found" in capsys.readouterr().err


def test_diffusers_own_classes_keep_their_names():
    from diffusers import UNet2DModel

    assert code_of(UNet2DModel) is None


def test_a_class_of_a_function_has_no_code(tmp_path):
    class Local(type(tiny_critic())):
        pass

    with pytest.raises(InputError, match="Local is defined in a function"):
        code_of(Local)
