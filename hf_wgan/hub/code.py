"""The code that a saved pipeline carries, so that diffusers alone can load it with `trust_remote_code=True`.

Each file is put together from the source of a class and of what it imports from the same package and from this one, so
that it is self-contained. `WGANPipeline` reads `model_index.json` as if it named the modules themselves, and leaves the
carried code alone.
"""

import ast
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from diffusers import ModelMixin
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES

from ..algorithm.latents import prior_of
from ..utils.errors import InputError
from ..version import __version__

PACKAGE = __name__.partition(".")[0]
SOURCE_MODULES = "_source_modules"
"""The entry of `model_index.json` with the modules that carried code of other packages comes from, by component."""
LIBRARIES = {"torch", "numpy", "PIL", "diffusers", "safetensors", "huggingface_hub", "transformers", "accelerate"}
DYNAMIC = "diffusers_modules."  # where diffusers imports carried code
HEADER = '''"""{summary}

Part of a model of {package} {version}: it lets diffusers load the model where {package} is not installed. Generated
from these files; changes are lost when the model is saved again.

    {sources}
"""
'''


@dataclass(frozen=True)
class Code:
    """Self-contained code with a class.

    Args:
        name: Name of its module, which is also the name of its file without `.py`.
        source: The content of the file.
        module: The module that the class comes from.
    """

    name: str
    source: str
    module: str


_generated: dict[type, Code] = {}
"""What `code_of` returned before: a run saves often, and files may be edited meanwhile."""


def code_of(of: type) -> Code | None:
    """Return the code of a pipeline's or a network's class, or None if it is diffusers' own.

    Raises:
        InputError: The class is not in an importable module, or the module is not self-contained.
    """
    name = of.__module__
    if name.partition(".")[0] in LOADABLE_CLASSES and not _is_ours(name):
        return None
    if name == "__main__" or "<locals>" in of.__qualname__:
        place = "a notebook or script" if name == "__main__" else "a function"
        raise InputError(f"{of.__name__} is defined in {place}, not at the top level of a module")
    module = sys.modules.get(name)
    if module is None or getattr(module, of.__name__, None) is not of:
        raise InputError(f"{of.__name__} cannot be found in the module {name}")
    if of not in _generated:
        _generated[of] = Code(_carried_name(name), self_contained(module), name)
    return _generated[of]


def check_prior(network: Any) -> None:
    """Check that the prior of a generator is found by the carried code, which has only the generator's own module.

    Raises:
        InputError: It is not.
    """
    name = network.config.get("latent_prior")
    prior = type(prior_of(network)) if isinstance(name, str) else None
    if prior is None or _is_ours(prior.__module__):
        return
    if (prior.__module__, prior.__name__) != (type(network).__module__, name):
        raise InputError(
            f"latent_prior={name!r} is not found where only the module {type(network).__module__} is: put the class "
            "there and give its name"
        )


def without_carried_code(index: Any) -> Any:
    """Return the content of a `model_index.json`, naming this package where it named code carried from this package."""
    if not isinstance(index, dict):
        return index
    carried = {name: entry[1] for name, entry in index.items() if _carried_class(entry)}
    return index | {name: class_ if name == "_class_name" else [PACKAGE, class_] for name, class_ in carried.items()}


def network_class(index: dict[str, Any], component: str) -> type[ModelMixin] | None:
    """Return the class that an index names for a component, or None if no imported module has such a network.

    Only modules that are imported already are looked into, and no file is looked for: importing runs code.

    Args:
        index: What `without_carried_code` returned.
        component: `"generator"` or `"critic"`.
    """
    entry: Any = index.get(component)
    if not _is_entry(entry):
        return None
    for module in dict.fromkeys((entry[0], source_module(index, component))):
        network = getattr(sys.modules.get(str(module)), entry[1], None)
        if isinstance(network, type) and issubclass(network, ModelMixin):
            return network
    return None


def carried_code(index: dict[str, Any], written: dict[str, Any]) -> dict[str, bytes]:
    """Return the code that a pipeline carries, by the name of its file, of those classes whose module is imported.

    Args:
        index: What `without_carried_code` returned.
        written: The index as it is in `model_index.json`, which names the files.
    """
    code: dict[str, bytes] = {}
    for name, entry in written.items():
        if not (_is_entry(entry) and entry[0].isidentifier()):
            continue
        of = _carried_class(entry) or network_class(index, name)
        with suppress(InputError):
            if of is not None and (generated := code_of(of)) is not None:
                folder = "" if name == "_class_name" else f"{name}/"
                code[f"{folder}{entry[0]}.py"] = generated.source.encode()
    return code


def source_module(index: dict[str, Any], component: str) -> str | None:
    """Return the module that an index names for a component: what its author imports; None if it names none."""
    entry, modules = index.get(component), index.get(SOURCE_MODULES)
    name = modules.get(component) if isinstance(modules, dict) else None
    name = entry[0] if name is None and isinstance(entry, list) and entry else name
    return name if isinstance(name, str) and all(part.isidentifier() for part in name.split(".")) else None


def import_options(index: dict[str, Any]) -> list[str]:
    """Return the options `--import` with which a command finds the networks of an index that are its author's own.

    A module is named by its file where a command in this folder would not find it by its name.
    """
    carried = index.get(SOURCE_MODULES) if isinstance(index, dict) else None
    names = dict.fromkeys(source_module(index, component) for component in carried) if isinstance(carried, dict) else {}
    options = []
    for name in filter(None, names):
        file = getattr(sys.modules.get(name), "__file__", None) or ""
        by_name = "." in name or not file or "site-packages" in file or Path(file).resolve().parent == Path.cwd()
        options += ["--import", name if by_name else file]
    return options


@dataclass(frozen=True)
class Usage:
    """How a pipeline with networks of its author's is loaded.

    Args:
        modules: The modules to import first, each with the file of the repository that holds it, if there is one.
        passed: The classes of networks to load and pass by hand, by component, as no module can be imported for them.
        is_complete: Whether the pipeline carries all of its code.
    """

    modules: dict[str, str | None]
    passed: dict[str, str]
    is_complete: bool


def usage_of(written: dict[str, Any]) -> Usage:
    """Return how the pipeline of a `model_index.json` is loaded, if it was saved by this package."""
    index = without_carried_code(written)
    carried = index.get(SOURCE_MODULES) or {}
    modules: dict[str, str | None] = {}
    passed: dict[str, str] = {}
    for component in ("generator", "critic"):
        entry, module = index.get(component), source_module(index, component)
        if not (_is_entry(entry) and entry[1].isidentifier()) or module is None or entry[0] in LOADABLE_CLASSES:
            continue
        if component in carried:
            modules.setdefault(entry[0], f"{component}/{entry[0]}.py")
        elif module == "__main__" or (module in sys.modules and network_class(index, component) is None):
            passed[component] = entry[1]
        else:
            modules.setdefault(module, None)
    return Usage(modules, passed, not passed and None not in modules.values())


def self_contained(module: ModuleType) -> str:
    """Return the source of a module and of what it imports, as one file.

    That is what it imports from its own package, from files beside it and from this package.

    Raises:
        InputError: There is no source, or it imports something in a way that cannot be followed.
    """
    parts = _with_imported(module)
    _check_names(parts)
    sources = "\n    ".join(f"{part.__name__.replace('.', '/')}.py{_licence(part)}" for part in parts)
    summary = ((inspect.getdoc(module) or "").splitlines() or [module.__name__])[0]
    summary = summary.replace("\\", "/").replace('"', "'")
    header = HEADER.format(summary=summary, package=PACKAGE, version=__version__, sources=sources)
    nodes = [node for part in parts for node in _tree(part).body]
    return "\n\n\n".join([header + "\n" + _outside_imports(module, nodes), *map(_body, parts)]) + "\n"


def _with_imported(module: ModuleType) -> list[ModuleType]:
    """Return the modules whose source a module needs, each after those that it needs itself."""
    complete: list[ModuleType] = []
    pending: list[ModuleType] = []

    def add(part: ModuleType) -> None:
        if part in complete or part in pending:
            return
        pending.append(part)
        for needed in _needed(part, module):
            add(needed)
        pending.remove(part)
        complete.append(part)

    add(module)
    return complete


def _needed(part: ModuleType, module: ModuleType) -> Iterator[ModuleType]:
    """Yield the modules that a part of a module imports, of those whose source is carried."""
    top_level = _tree(part).body
    for node in ast.walk(ast.Module([node for node in top_level if not _is_type_checking(node)], [])):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if not _is_outside(alias.name, module):
                    raise InputError(
                        f"{part.__name__} has `import {alias.name}`, which is not installed from a package: use `from "
                        f"{alias.name} import ...`, whose source can be carried along"
                    )
        elif isinstance(node, ast.ImportFrom) and not _is_outside(source := _absolute(node, part), module):
            if node not in top_level:
                raise InputError(f"{part.__name__} imports {source} in a block: import it at the top of the module")
            for alias in node.names:
                yield _defining(source, alias.name, part)


def _defining(source: str, name: str, part: ModuleType) -> ModuleType:
    """Return the module that defines what a part imports by `from source import name`."""
    module = sys.modules.get(source) or import_module(source)
    if not hasattr(module, "__path__"):
        return module
    value = getattr(module, name, None)
    owner = sys.modules.get(str(getattr(value, "__module__", None)))
    if isinstance(value, ModuleType) or owner is None or vars(owner).get(name) is not value:
        raise InputError(f"{part.__name__} imports {name} from {source}: import it from the module that defines it")
    return owner


def _absolute(node: ast.ImportFrom, part: ModuleType) -> str:
    if not node.level:
        return str(node.module)
    return importlib.util.resolve_name("." * node.level + (node.module or ""), part.__package__)


def _is_outside(name: str, module: ModuleType) -> bool:
    """Return whether a module is Python's or an installed package's, other than this one and the module's own."""
    top = name.partition(".")[0]
    if top in (PACKAGE, module.__name__.partition(".")[0]):
        return False
    if top in sys.stdlib_module_names or top in LIBRARIES:
        return True
    spec = importlib.util.find_spec(top)
    places = [spec.origin or "", *(spec.submodule_search_locations or [])] if spec else ["site-packages"]
    return any("site-packages" in place or "dist-packages" in place for place in places)


def _is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _check_names(parts: list[ModuleType]) -> None:
    """Check that no name has two meanings once all parts are in one file."""
    meanings: dict[str, tuple[str, str]] = {}
    for part in parts:
        for node in _tree(part).body:
            for name in _defined(node):
                meaning = ast.unparse(node) if not isinstance(node, ast.ImportFrom) else f"from {node.module}"
                before, elsewhere = meanings.setdefault(name, (meaning, part.__name__))
                if before != meaning and elsewhere != part.__name__:
                    raise InputError(f"{name} means one thing in {elsewhere} and another in {part.__name__}: rename it")


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines, apart from those which are carried along by an import."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        return [name for name in names if name != "__all__"]
    return []


def _outside_imports(module: ModuleType, nodes: list[ast.stmt]) -> str:
    """Return the import statements among the nodes whose source is not carried, each module once."""
    plain = {ast.unparse(node) for node in nodes if isinstance(node, ast.Import)}
    names: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level and _is_outside(str(node.module), module):
            names.setdefault(str(node.module), set()).update(map(ast.unparse, node.names))
    future = names.pop("__future__", set())
    lines = [f"from __future__ import {', '.join(sorted(future))}"] * bool(future) + sorted(plain)
    for source in sorted(names):
        star = {"*"} & names[source]
        lines += [f"from {source} import *"] * bool(star)
        lines += [f"from {source} import {', '.join(sorted(names[source] - star))}"] * bool(names[source] - star)
    return "\n".join(lines)


def _body(part: ModuleType) -> str:
    """Return a module's text without its docstring and its imports."""
    lines = inspect.getsource(part).splitlines()
    for number, node in enumerate(_tree(part).body):
        is_docstring = number == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_docstring or isinstance(node, (ast.Import, ast.ImportFrom)) or _is_type_checking(node):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)  # type: ignore
        if isinstance(node, ast.ImportFrom) and not _is_outside(_absolute(node, part), part):
            renamed = [
                f"{alias.asname} = {alias.name}" for alias in node.names if alias.asname not in (None, alias.name)
            ]
            lines[node.lineno - 1] = "; ".join(renamed)
    return "\n".join(lines).strip("\n")


def _tree(module: ModuleType) -> ast.Module:
    try:
        return ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError) as error:
        raise InputError(f"{module.__name__} has no source code that can be read") from error


def _licence(part: ModuleType) -> str:
    return f" ({PACKAGE}, Apache-2.0)" if _is_ours(part.__name__) else ""


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


def _carried_name(module: str) -> str:
    """Return the name of the file, without dots, as diffusers imports it by its name."""
    if _is_ours(module):
        return f"{PACKAGE}_{module.rpartition('.')[2]}"
    return module.rpartition(".")[2] if module.startswith(DYNAMIC) else module.replace(".", "_")


def _is_entry(entry: Any) -> bool:
    """Return whether this is `[module, class]`, as an index names a component."""
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)


def _carried_class(entry: Any) -> type | None:
    """Return the class of this package whose code an entry such as `["hf_wgan_dcgan", "DCGANGenerator"]` names."""
    if not _is_entry(entry):
        return None
    module, class_name = entry
    public = getattr(import_module(PACKAGE), class_name, None)
    bases = public.__mro__ if isinstance(public, type) else ()
    return next(
        (base for base in bases if _is_ours(base.__module__) and _carried_name(base.__module__) == module), None
    )
