"""Commands that messages print: each is printed here, and run as it was printed."""

import ast
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
from conftest import tiny_critic, tiny_generator
from hub_server import hub
from test_convert import Run as OriginalRun

import hf_wgan
from hf_wgan import InputError, WGANPipeline, WGANTrainer
from hf_wgan.cli.main import main
from hf_wgan.hub.card import read_evaluation
from hf_wgan.metrics import classifier
from hf_wgan.metrics.classifier import load_classifier
from hf_wgan.utils.commands import shell_command
from hf_wgan.utils.files import checkpoints

PACKAGE = Path(hf_wgan.__file__).parent
TINY = "--architecture mlp --resolution 8 --train_batch_size 4 --num_validation_images 4 --max_train_steps 3"
OWN = "from hf_wgan import DCGANCritic\n\n\nclass MyCritic(DCGANCritic):\n    pass\n"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    (tmp_path / "empty folder").mkdir()
    monkeypatch.chdir(tmp_path / "empty folder")
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", sys.path[:])


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's tries
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        yield server


def run(line):
    """Run a command line as a shell would, but for the process."""
    program, *words = shlex.split(line)
    assert program == "hf-wgan"
    return main(words)


def printed(text):
    """The last command in a text."""
    return re.findall(r"hf-wgan .*", text)[-1]


def save_own_model(folder, monkeypatch):
    """Save a pipeline whose critic is of a module in the folder above, and forget the module."""
    Path("../mynets.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(Path("..").resolve()))
    import mynets

    WGANPipeline(tiny_generator(), mynets.MyCritic(8, 1, 8)).save_pretrained(folder)


def test_where_the_command_is_not_on_the_path_it_is_spelled_by_the_module(monkeypatch, capsys):
    assert shell_command("push", "my run") == "hf-wgan push 'my run'"
    monkeypatch.setenv("PATH", "")
    assert shell_command("push", "my run") == "python -m hf_wgan push 'my run'"
    assert main(["--help"]) == 0
    with pytest.raises(SystemExit):
        main(["push", "--help"])
    said = capsys.readouterr().out
    assert "usage: python -m hf_wgan COMMAND" in said and "usage: python -m hf_wgan push" in said
    assert "python -m hf_wgan push wgan-digits --hub_model_id" in said and "hf-wgan" not in said


def test_an_interrupted_run_is_resumed(monkeypatch, capsys):
    step = WGANTrainer.step

    def interrupted_step(trainer):
        record = step(trainer)
        if trainer.state.global_step == 2:
            signal.raise_signal(signal.SIGINT)
        return record

    with monkeypatch.context() as patch:
        patch.setattr(WGANTrainer, "step", interrupted_step)
        assert run(f"hf-wgan train {TINY} --output_dir 'my run'") == 130
    assert checkpoints(Path("my run"))[-1].name == "checkpoint-000002"
    assert run(printed(capsys.readouterr().err)) == 0
    assert checkpoints(Path("my run"))[-1].name == "checkpoint-000003"


def test_a_converted_checkpoint_is_looked_at(tmp_path, capsys):
    original = OriginalRun(tmp_path)
    original.save()
    assert run(shlex.join(["hf-wgan", "convert", str(original.generator), "--output_dir", "my model"])) == 0
    assert run(printed(capsys.readouterr().out)) == 0
    assert Path("generated/grid.png").is_file()


@pytest.fixture
def quick_classifier(monkeypatch):
    train = classifier.train_classifier
    monkeypatch.setattr(classifier, "train_classifier", lambda images, held_out, *_: train(images, held_out, 0, 0.2))


def test_a_missing_classifier_is_trained(quick_classifier):
    with pytest.raises(InputError) as error:
        load_classifier("my classifier")
    assert run(printed(str(error.value))) == 0
    assert load_classifier("my classifier")


def test_a_damaged_evaluation_is_repeated(quick_classifier, capsys):
    assert run(f"hf-wgan train {TINY} --output_dir 'my run'") == 0
    evaluation = Path("my run/evaluation.json")
    evaluation.write_text("[{")
    read_evaluation(Path("my run"))
    assert run(printed(capsys.readouterr().err)) == 0
    assert evaluation.read_text().endswith("]\n")


@pytest.mark.parametrize("own", [False, True], ids=["our networks", "own networks"])
def test_a_failed_push_is_completed(own, server, monkeypatch, capsys):
    server.fail("POST .*/commit/", 503, times=None)
    if own:
        save_own_model("my model", monkeypatch)
    else:
        WGANPipeline(tiny_generator(), tiny_critic()).save_pretrained("my model")
    assert run("hf-wgan push 'my model' --hub_model_id me/tiny" + " --import ../mynets.py" * own) == 2
    server.heal()
    forget(monkeypatch)
    assert run(printed(capsys.readouterr().err)) == 0
    assert ("critic/mynets.py" in server.files("me/tiny")) == own


@pytest.mark.parametrize("place", ["my model", "me/tiny"])
def test_a_failed_push_of_a_space_is_completed(place, server, monkeypatch, capsys):
    save_own_model("my model", monkeypatch)
    assert run("hf-wgan push 'my model' --hub_model_id me/tiny") == 0
    server.fail("POST .*/commit/", 503, times=None)
    assert run(shlex.join(["hf-wgan", "space", place, "--hub_space_id", "me/play"])) == 2
    server.heal()
    forget(monkeypatch)
    assert run(printed(capsys.readouterr().err)) == 0
    assert "mynets.py" in server.files("spaces/me/play")


def forget(monkeypatch):
    """Be a process that has imported no networks of one's own."""
    sys.modules.pop("mynets", None)
    for folder in [folder for folder in sys.path if (Path(folder) / "mynets.py").is_file()]:
        sys.path.remove(folder)


def calls_of(function):
    called = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return {name.id for name in called if isinstance(name, ast.Name)}


def test_no_other_message_prints_a_command():
    functions = {
        (path.relative_to(PACKAGE).as_posix(), function.name)
        for path in PACKAGE.rglob("*.py")
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef) and calls_of(function) & {"shell_command", "program"}
    }
    assert functions == {
        ("cli/common.py", "parser_for"),  # tests/test_docs.py runs the examples in the help
        ("cli/main.py", "main"),  # tests/cli/test_main.py
        ("cli/convert.py", "convert"),
        ("cli/launch.py", "command_line"),
        ("hub/card.py", "read_evaluation"),
        ("hub/publish.py", "command"),
        ("hub/space.py", "command"),
        ("metrics/classifier.py", "load_classifier"),
        ("utils/commands.py", "shell_command"),
    }
