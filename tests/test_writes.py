"""Every write of the package replaces a file at once, by the functions for it, or is on a list with its reason."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_wgan"
REPLACING = {"replacing", "replacing_in"}
METHODS = {"write_text", "write_bytes", "save", "save_pretrained", "savefig", "savez", "tofile", "to_csv", "to_json"}
FUNCTIONS = {"save_file", "save_video", "export_to_video", "copy", "copyfile", "copytree", "copy2", "move"}
NO_WRITES = {"copy.copy", "checkpoints.save"}  # not of files

AS_A_WHOLE = "in a temporary folder, which is renamed when it is complete"
NEW = "a new file in a temporary folder"
CHECKED = "written by the function that calls it, which replaces the file"
ELSEWHERE = {
    ("training/checkpoint.py", "write_checkpoint"): AS_A_WHOLE,
    ("training/best.py", "keep_best"): AS_A_WHOLE,
    ("data/cache.py", "_fill"): AS_A_WHOLE,
    ("data/cache.py", "__init__"): AS_A_WHOLE,
    ("data/cache.py", "_keep_first_channel"): AS_A_WHOLE,
    ("training/report.py", "on_log"): "appends a line; of a line that was cut off nothing is read",
    ("hub/publish.py", "_in_precision"): NEW,
    ("hub/publish.py", "push_copy"): NEW,
    ("pipelines/published.py", "_push"): NEW,
    ("pipelines/published.py", "_take_along"): NEW,
    ("pipelines/demo.py", "stored"): NEW,
    ("pipelines/demo.py", "interpolation"): "into memory",
    ("pipelines/demo.py", "zipped"): "into memory",
    ("training/state.py", "_is_loaded"): "into memory",
    ("utils/memory.py", "peak_memory_of"): "to the kernel",
    ("utils/grids.py", "save_video"): CHECKED,
    ("pipelines/export.py", "_write_onnx"): CHECKED,
    ("pipelines/export.py", "_write_program"): CHECKED,
    ("pipelines/pipeline_wgan.py", "save_pretrained"): "diffusers' own, of code that travels alone; the package's "
    "pipeline calls it for a temporary folder",
    ("training/run_folder.py", "write_pipeline"): "the package's pipeline, which replaces files",
    ("cli/convert.py", "convert"): "the package's pipeline, which replaces files",
}


def writes(source):
    """The function, the line and the text of each call that writes a file outside a block that replaces one."""

    def visit(node, function, is_replacing):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        if isinstance(node, ast.With):
            names = {name_of(item.context_expr.func) for item in node.items if isinstance(item.context_expr, ast.Call)}
            is_replacing = is_replacing or bool(names & REPLACING)
        if isinstance(node, ast.Call) and is_write(node) and not is_replacing:
            yield function, node.lineno, ast.unparse(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function, is_replacing)

    return list(visit(ast.parse(source), "", False))


def name_of(function):
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def is_write(call):
    name, called = name_of(call.func), ast.unparse(call.func)
    if name in ("open", "fdopen", "ZipFile", "memmap"):
        modes = [argument for argument in [*call.args, *(keyword.value for keyword in call.keywords)]]
        texts = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
        return any(set(text) & set("wax+") and len(text) <= 3 for text in texts)
    if called == "files.write_text" or any(called.endswith(other) for other in NO_WRITES):
        return False
    is_method = isinstance(call.func, ast.Attribute)
    return (is_method and name in METHODS) or name in FUNCTIONS


def test_every_write_of_the_package_replaces_a_file_at_once_or_is_listed():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for function, line, text in writes(path.read_text(encoding="utf-8")):
            found.setdefault((str(path.relative_to(PACKAGE)), function), []).append(f"{path}:{line}: {text}")
    unknown = [text for place, texts in found.items() if place not in ELSEWHERE for text in texts]
    assert not unknown, "use files.replacing, or say here why not:\n" + "\n".join(unknown)
    assert set(ELSEWHERE) == set(found), f"no write any more: {set(ELSEWHERE) - set(found)}"


@pytest.mark.parametrize(
    "line, count",
    [
        ("open(path, 'w')", 1),
        ("path.open(mode='ab')", 1),
        ("open(path)", 0),
        ("path.write_text(text)", 1),
        ("files.write_text(path, text)", 0),
        ("picture.save(path)", 1),
        ("network.save_pretrained(path)", 1),
        ("safetensors.torch.save_file(tensors, path)", 1),
        ("shutil.copyfile(a, b)", 1),
        ("with files.replacing(path) as temporary: picture.save(temporary)", 0),
        ("with files.replacing_in(path) as temporary: network.save_pretrained(temporary)", 0),
        ("with open(other, 'wb') as file: picture.save(file)", 2),
    ],
)
def test_a_write_is_recognised(line, count):
    assert len(writes(line)) == count
