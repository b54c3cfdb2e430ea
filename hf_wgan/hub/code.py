"""The code that a saved pipeline carries, so that diffusers alone can load it with `trust_remote_code=True`.

It is put together from this package's own source files: one self-contained file for the pipeline, one for each network.
`WGANPipeline` reads `model_index.json` as if it named this package, and leaves the carried code alone.
"""

import ast
import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from ..version import __version__

PACKAGE = __name__.partition(".")[0]
HEADER = '''"""{summary}

Part of a model trained with {package} {version}: it lets diffusers load the model where {package} is not installed. Put
together by a program from these files of that package (Apache-2.0); changes are lost when the model is saved again.

    {sources}
"""
'''


def code_of(of: type) -> tuple[str, str] | None:
    """The name and the source of a self-contained module with this class, if it is a class of this package."""
    module = sys.modules[of.__module__]
    is_ours = module.__name__.partition(".")[0] == PACKAGE
    return (_carried_name(module), self_contained(module)) if is_ours else None


def without_carried_code(index: Any) -> Any:
    """The content of a `model_index.json`, naming this package where it named code carried from this package."""
    if not isinstance(index, dict):
        return index
    carried = {name: entry[1] for name, entry in index.items() if _is_carried(entry)}
    return index | {name: class_ if name == "_class_name" else [PACKAGE, class_] for name, class_ in carried.items()}


def self_contained(module: ModuleType) -> str:
    """The source of a module of this package together with the modules of the package that it imports, as one file."""
    modules = _with_imported(module)
    nodes = [node for part in modules for node in _tree(part).body]
    sources = "\n    ".join(f"{part.__name__.replace('.', '/')}.py" for part in modules)
    summary = (inspect.getdoc(module) or "").splitlines()[0]
    header = HEADER.format(summary=summary, package=PACKAGE, version=__version__, sources=sources)
    return "\n\n\n".join([header + "\n" + _outside_imports(nodes), *map(_body, modules)]) + "\n"


def _with_imported(module: ModuleType) -> list[ModuleType]:
    """The modules of this package that a module needs, each after those that it needs itself."""
    found: list[ModuleType] = []
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            parent = module.__name__.rsplit(".", node.level)[0]
            found += [part for part in _with_imported(import_module(f"{parent}.{node.module}")) if part not in found]
    return [*found, module]


def _outside_imports(nodes: list[ast.stmt]) -> str:
    """The import statements among the nodes that are not of this package, each module once."""
    plain = {ast.unparse(node) for node in nodes if isinstance(node, ast.Import)}
    names: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level:
            names.setdefault(str(node.module), set()).update(map(ast.unparse, node.names))
    return "\n".join(sorted(plain) + [f"from {name} import {', '.join(sorted(names[name]))}" for name in sorted(names)])


def _body(module: ModuleType) -> str:
    """A module's text without its docstring and its imports."""
    lines = inspect.getsource(module).splitlines()
    for node in _tree(module).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)  # type: ignore
    return "\n".join(lines).strip("\n")


def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def _carried_name(module: ModuleType) -> str:
    return f"{PACKAGE}_{module.__name__.rpartition('.')[2]}"


def _is_carried(entry: Any) -> bool:
    """Whether an entry such as `["hf_wgan_dcgan", "DCGANGenerator"]` names a class that this package has."""
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)):
        return False
    module, class_name = entry
    found = getattr(import_module(PACKAGE), class_name, None)
    return isinstance(found, type) and any(
        _carried_name(sys.modules[each.__module__]) == module for each in found.__mro__
    )
