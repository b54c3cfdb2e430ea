"""Whatever the package prints names commands and options that exist where it is read."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import hf_wgan
from hf_wgan.cli.main import COMMANDS
from hf_wgan.utils.options import OptionParser

PACKAGE = Path(hf_wgan.__file__).parent
OTHERS = {"--with", "--version"}  # of uv run, and of hf-wgan itself
NOT_READ = ("cli/launch.py", "utils/secrets.py")  # options that are passed to torchrun, and looked for in any command


class Parsed(Exception):
    pass


@pytest.fixture(scope="module")
def options():
    """The options of every command, by its name."""

    def stop(parser, args=None):
        raise Parsed({name for action in parser._actions for name in action.option_strings})

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OptionParser, "parse", stop)
        for name, (module, function, _) in COMMANDS.items():
            with pytest.raises(Parsed) as stopped:
                getattr(import_module(f"hf_wgan.cli.{module}"), function)([])
            (found[name],) = stopped.value.args
    return found


def texts():
    """Every string of the package that is no docstring of code, with its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "VALUE" for part in node.values]
                yield path.relative_to(PACKAGE), "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.relative_to(PACKAGE), node.value


def docstrings(tree):
    """The nodes of the docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            yield node.body[0].value


SPELLED_BY_HAND = {  # files that are read elsewhere, the marks of the program, and the version
    ("hub/space.py", "hf-wgan space"),
    ("cli/main.py", "hf-wgan VALUE"),
    ("cli/launch.py", "hf-wgan "),
    ("cli/common.py", "hf-wgan "),
    ("utils/hints.py", "hf-wgan train"),
}


def test_messages_spell_commands_by_one_function():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        ours = set(docstrings(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "VALUE" for part in node.values)
                found |= {(path, text) for text in re.findall(r"\bhf-wgan [\w-]*", "".join(map(str, parts)))}
                ours |= set(node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in ours:
                found |= {(path, text) for text in re.findall(r"\bhf-wgan (?:[a-z-]*)", node.value)}
    assert {(path.relative_to(PACKAGE).as_posix(), text) for path, text in found} == SPELLED_BY_HAND


def named_in_the_documentation():
    """Every command in the running text of the documentation; tests/test_docs.py runs those in blocks of code."""
    root = PACKAGE.parent
    for path in [root / "README.md", *(root / "docs").glob("*.md")]:
        for text in re.findall(r"`(hf-wgan [^`]+)`", path.read_text(encoding="utf-8")):
            yield path.relative_to(root), text.replace("\n", " ")


TEXTS = sorted({*texts(), *named_in_the_documentation()})


def test_no_text_names_a_script_of_the_clone():
    assert [(str(path), text) for path, text in TEXTS if re.search(r"scripts/\w+\.py", text)] == []


def test_every_command_that_a_text_names_exists():
    named = [(str(path), name) for path, text in TEXTS for name in re.findall(r"\bhf-wgan ([a-z][\w-]*)", text)]
    assert len(named) > 10
    assert [(path, name) for path, name in named if name not in COMMANDS] == []


def test_every_option_that_a_text_names_exists(options):
    known = set.union(*options.values(), OTHERS)
    named = [(str(path), name) for path, text in TEXTS for name in re.findall(r"(?<![\w-])--[a-z]\w+(?:-\w+)*", text)]
    named = [(path, name) for path, name in named if path not in NOT_READ]
    assert len(named) > 30
    missing = [(path, name) for path, name in named if name.replace("--no-", "--") not in known and name not in known]
    assert missing == []


def test_a_command_in_a_text_takes_the_options_beside_it(options):
    wrong = []
    for path, text in TEXTS:
        for command, rest in re.findall(r"\bhf-wgan ([a-z][\w-]*)([^`\n;]*)", text):
            named = set(re.findall(r"(?<![\w-])--[a-z]\w+(?:-\w+)*", rest))
            wrong += [(str(path), command, name) for name in named - options.get(command, set())]
    assert wrong == []


def test_what_is_measured_is_called_a_metric_everywhere():
    of_papers = re.compile(r"\bfigures? \d")
    wrong = {text for _, text in texts() if re.search(r"\bfigures?\b", of_papers.sub("", text), re.IGNORECASE)}
    assert wrong == set()
    assert "| figure" not in (PACKAGE.parent / "model_cards" / "template.md").read_text(encoding="utf-8")
