"""Saving, publishing and safe loading of `WGANPipeline`, which the code that a model carries does without."""

import inspect
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional, Self

import torch
from diffusers import ModelMixin
from huggingface_hub import hf_hub_download, snapshot_download

from ..hub.code import PACKAGE, SOURCE_MODULES, check_prior, code_of, network_class, source_module, without_carried_code
from ..hub.publish import Push, files_that_belong, imports_of, push_folder
from ..models.network import weights_name
from ..utils import files
from ..utils.console import say
from ..utils.errors import InputError, one_line
from . import pipeline_wgan


class WGANPipeline(pipeline_wgan.WGANPipeline):
    __doc__ = pipeline_wgan.WGANPipeline.__doc__

    def __init__(self, generator: ModelMixin, critic: Optional[ModelMixin] = None):  # noqa: UP045 - as in the base
        super().__init__(generator, critic)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Self:
        """Load a pipeline from a folder or from the Hub.

        No code is ever taken from the folder or the repository: the networks are built from classes that this process
        has imported already, whatever files lie beside their weights. Only safetensors are read.

        Args:
            pretrained_model_name_or_path: `"me/model"`, or a folder that `save_pretrained` or training left.
            options: Those of `DiffusionPipeline.from_pretrained` that apply here: `dtype` (or `torch_dtype`),
                `variant`, `device_map`, `low_cpu_mem_usage`, `generator` and `critic` (networks to use instead of the
                saved ones), and for the Hub `revision`, `cache_dir`, `local_files_only`, `force_download`, `token`.

        Raises:
            InputError: The index names no Wasserstein GAN pipeline, the weights are not safe or not whole, or an option
                is unknown.
            OSError: A file is missing, or the Hub cannot be reached.

        Example:
        ```py
        >>> import torch
        >>> from hf_wgan import WGANPipeline

        >>> pipeline = WGANPipeline.from_pretrained("me/model", variant="fp16", dtype=torch.float16)
        ```
        """
        if options.pop("use_safetensors", None) is False:
            raise InputError("use_safetensors=False: pickled weights can run code, so only safetensors are loaded")
        options.pop("trust_remote_code", None)  # there is nothing to trust
        parameters = list(inspect.signature(cls.__init__).parameters)[1:]
        arguments = {name: options.pop(name) for name in parameters if name in options}
        hub_options = {name: options.pop(name) for name in _HUB_OPTIONS if name in options}
        variant = options.pop("variant", None)
        dtype = options.pop("torch_dtype", None)
        dtype = options.pop("dtype", dtype)
        dtypes = dtype if isinstance(dtype, dict) else {"default": dtype}
        for value in dtypes.values():
            if value is not None and not isinstance(value, torch.dtype):
                raise InputError(f"dtype={value!r}: must be a torch.dtype, such as torch.float16")
        for name, value in options.items():
            if name not in _NETWORK_OPTIONS:
                known = ", ".join((*_DTYPE_OPTIONS, "variant", *_NETWORK_OPTIONS, *_HUB_OPTIONS))
                raise InputError(f"{name}={value!r}: WGANPipeline.from_pretrained takes {known}")

        if not isinstance(pretrained_model_name_or_path, (str, os.PathLike)):
            name = f"pretrained_model_name_or_path={pretrained_model_name_or_path!r}"
            raise InputError(f"{name}: must be a folder, or a name on the Hub")
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = cls.download(pretrained_model_name_or_path, variant, arguments, **hub_options)
        index = _read_index(cls, folder / files.INDEX, pretrained_model_name_or_path, arguments)
        classes = _classes(index, arguments)
        variants = {name: variant for name in classes if variant and _weights(folder / name, variant)}
        if variant and classes and not variants:
            raise InputError(f"variant={variant!r}: {pretrained_model_name_or_path} has no weights of this variant")
        for name, network in classes.items():
            if not _weights(folder / name, variants.get(name)):
                raise InputError(
                    f"{pretrained_model_name_or_path} has no safetensors weights for its {name} "
                    f"({name}/{weights_name()}); pickled ones are not loaded, as they can run code"
                )
            arguments[name] = network.from_pretrained(
                folder / name,
                variant=variants.get(name),
                use_safetensors=True,
                **{_DTYPE_OPTION: dtypes.get(name, dtypes.get("default"))},
                **options,
            )
        values = {name: index[name] for name in parameters if name in index and not isinstance(index[name], list)}
        pipeline = cls(**{**values, **arguments})
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline

    @classmethod
    def download(
        cls, pretrained_model_name: Any, variant: str | None = None, without: Collection[str] = (), **options: Any
    ) -> Path:
        """Download what `from_pretrained` reads of a model on the Hub, which is no code, and return its folder.

        Args:
            pretrained_model_name: `"me/model"`.
            variant: Variant of the weights; networks that lack it are downloaded in full precision.
            without: Components to leave out.
            options: `revision`, `cache_dir`, `local_files_only`, `force_download` and `token`.
        """
        name = str(pretrained_model_name)
        index = Path(hf_hub_download(name, files.INDEX, **options))
        folder = index.parent
        parts = list(_classes(_read_index(cls, index, name, without), without))
        options["revision"] = folder.name  # the commit, in case the branch moves meanwhile
        if variant:
            snapshot_download(name, allow_patterns=_patterns(parts, variant), **options)
            parts = [part for part in parts if not _weights(folder / part, variant)]
        if parts:
            snapshot_download(name, allow_patterns=_patterns(parts), **options)
        return folder

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        if options.pop("safe_serialization", True) is False:
            raise InputError("safe_serialization=False: pickled weights can run code, so only safetensors are written")
        push_options = {name: options.pop(name) for name in _PUSH_OPTIONS if name in options}
        push_to_hub = options.pop("push_to_hub", False)
        for name, value in options.items():
            if name not in _SAVE_OPTIONS:
                known = ", ".join((*_SAVE_OPTIONS, "push_to_hub", *_PUSH_OPTIONS))
                raise InputError(f"{name}={value!r}: WGANPipeline.save_pretrained takes {known}")
        if push_options and not push_to_hub:
            raise InputError(f"{next(iter(push_options))}: has no effect without push_to_hub=True")
        if Path(save_directory).is_file():
            raise InputError(f"save_directory={str(save_directory)!r}: is a file, must be a folder")
        with files.replacing_in(Path(save_directory)) as temporary:
            super().save_pretrained(temporary, **options)
            self._record_source_modules(temporary / files.INDEX)
        for component, reason in self._components_without_code().items():
            network = type(self.components[component])
            _say_once(
                f"{component}: {reason}, so its code is not saved with the model. Where {network.__name__} is defined "
                f"or imported, WGANPipeline.from_pretrained({str(save_directory)!r}, {component}={network.__name__}"
                f".from_pretrained({str(save_directory)!r}, subfolder={component!r})) loads the model."
            )
        if push_to_hub:
            push = {"repo_id": Path(save_directory).resolve().name, **push_options}
            self._push(_push_of(push), Path(save_directory))

    save_pretrained.__doc__ = pipeline_wgan.WGANPipeline.save_pretrained.__doc__

    def _code_of(self, of: type) -> tuple[str, str] | None:
        if issubclass(of, WGANPipeline) and of is not WGANPipeline:
            return None  # a pipeline of somebody else's is loaded by its own class
        with suppress(InputError):  # which save_pretrained reports
            if (code := code_of(pipeline_wgan.WGANPipeline if of is WGANPipeline else of)) is not None:
                return code.name, code.source
        return None

    def _components_without_code(self) -> dict[str, str]:
        """Return the reasons why the code of components cannot be saved, by component."""
        reasons = {}
        for name, part in self.components.items():
            try:
                if part is not None and code_of(type(part)) is not None:
                    check_prior(part)
            except InputError as error:
                reasons[name] = str(error)
        return reasons

    def _record_source_modules(self, path: Path) -> None:
        """Add the modules of carried code that is not this package's to an index."""
        modules = {}
        for name, part in self.components.items():
            with suppress(InputError):
                if part is not None and (code := code_of(type(part))) and not code.name.startswith(f"{PACKAGE}_"):
                    modules[name] = code.module
        if modules:
            index = json.loads(path.read_text(encoding="utf-8")) | {SOURCE_MODULES: modules}
            files.write_text(path, json.dumps(index, indent=2, sort_keys=True) + "\n")

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str = Push.commit_message,
        private: bool = False,
        token: str | None = None,
        create_pr: bool = False,
        variant: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Push the pipeline and its card, in one commit.

        If it was loaded from a run's folder or left by training, and its weights are still those, the run's samples,
        curves and record are pushed too.

        Args:
            repo_id: `"me/model"`, or `"model"` in the namespace of the token's owner.
            commit_message: Message of the commit.
            private: Whether a new repository is private.
            token: A token with write access; by default the one that `hf auth login` saved, or `HF_TOKEN`.
            create_pr: Whether to open a pull request instead of changing the branch.
            variant: `"fp16"` or `"bf16"` to add weights of that precision beside the full ones.
            revision: Branch to push to, created if it does not exist.

        Returns:
            The URL of the repository, or of the pull request.

        Raises:
            InputError: A value that no Hub accepts.
            PushError: The push failed, and nothing of it can be seen on the Hub.

        Example:
        ```py
        >>> from hf_wgan import WGANPipeline

        >>> WGANPipeline.from_pretrained("wgan-digits").push_to_hub("me/wgan-digits", variant="fp16")
        ```
        """
        return self._push(Push(repo_id, token, private, revision, create_pr, commit_message, variant))

    def _push(self, push: Push, saved: Path | None = None) -> str:
        """Push the pipeline.

        Args:
            push: The repository and the options.
            saved: Where the pipeline has been saved, if it has.
        """
        run = Path(str(self.name_or_path or ""))
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "pipeline"
            self.save_pretrained(folder)
            if _take_along(run, folder):
                saved = saved or run
            command = push.command(saved or "FOLDER", imports_of(folder))
            if saved:
                remedy = f"{saved} holds the pipeline, and this command completes the push:\n{command}"
            else:
                remedy = (
                    "Nothing is lost: call push_to_hub again, or pipeline.save_pretrained('FOLDER') and then this "
                    f"command:\n{command}"
                )
            return push_folder(folder, push, remedy, called=str(saved or "The pipeline"))


_SAVE_OPTIONS = ("variant", "max_shard_size")
_PUSH_OPTIONS = ("repo_id", "commit_message", "private", "token", "create_pr", "revision")
_DTYPE_OPTIONS = ("dtype", "torch_dtype")
# diffusers calls it `dtype` since it deprecates `torch_dtype`; older versions do not know `dtype`.
_DTYPE_OPTION = "dtype" if 'pop("dtype"' in inspect.getsource(ModelMixin.from_pretrained) else "torch_dtype"
_HUB_OPTIONS = ("revision", "cache_dir", "local_files_only", "force_download", "token")
_NETWORK_OPTIONS = ("device_map", "max_memory", "offload_folder", "offload_state_dict", "low_cpu_mem_usage")


def pipeline_files(folder: Path) -> list[Path]:
    """Return the files of a pipeline, the index first: without it the rest is no pipeline any more."""
    paths = [folder / files.INDEX, *folder.glob(files.CARRIED_CODE)]
    try:
        index = json.loads(paths[0].read_text(encoding="utf-8"))
    except (OSError, ValueError):
        index = {}
    for network in files.NETWORKS:
        patterns = ["config.json", f"{Path(weights_name()).stem}*", files.CARRIED_CODE]
        entry = index.get(network)
        if isinstance(entry, list) and isinstance(entry[0], str):  # the module with the code of a network
            patterns.append(f"{entry[0].rpartition('.')[2]}.py")
        paths += [path for pattern in patterns for path in (folder / network).glob(pattern)]
    return paths


def _read_index(cls: type, path: Path, model: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """Read a `model_index.json`, and check that it names nothing but networks which this process has imported already.

    Args:
        cls: The class of the pipeline.
        path: The file.
        model: Name of the model, for messages.
        without: Components that are not loaded, whatever they are.

    Raises:
        InputError: It names something else.
    """
    if not path.is_file():
        raise InputError(f"{str(path.parent)!r} holds no pipeline: there is no {path.name} in it")
    try:
        index = without_carried_code(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a valid JSON file ({one_line(error)})") from error
    kind = index.get("_class_name") if isinstance(index, dict) else type(index).__name__
    if kind not in ("WGANPipeline", cls.__name__):
        raise InputError(f"{path} describes no Wasserstein GAN pipeline, but {kind}")
    entries = {name: value for name, value in index.items() if isinstance(value, list) and name not in without}
    if "generator" not in entries and "generator" not in without:
        raise InputError(f"{path} names no generator")
    for name, value in entries.items():
        if value == [None, None] and name != "generator":
            continue
        if name not in files.NETWORKS or network_class(index, name) is None:
            raise InputError(f"{path} names {value} as {name}, {_why_unknown(index, name, path, str(model))}")
    return index


def _why_unknown(index: dict[str, Any], name: str, path: Path, model: str) -> str:
    """Return why a network that an index names cannot be built, and what loads it."""
    module = source_module(index, name)
    if name in files.NETWORKS and module == "__main__":
        return (
            "a class of a notebook or script: define it here under the same name first, or move it into a module, "
            "import that, and save the model again"
        )
    if name not in files.NETWORKS or module is None or module in sys.modules or module.partition(".")[0] == PACKAGE:
        return (
            "which is no network of hf_wgan or of a module imported before: not loaded, as importing it would run its "
            "code"
        )
    remedy = f"and the module {module} is not imported: import it first (`import {module}` in Python, --import {module}"
    remedy += " on the command line)"
    if name in (index.get(SOURCE_MODULES) or {}) or (path.parent / name / f"{index[name][0]}.py").is_file():
        remedy += (
            "; or read the code that the model carries, and run it by DiffusionPipeline.from_pretrained("
            f"{model!r}, trust_remote_code=True)"
        )
    return remedy


def _classes(index: dict[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """Return the classes of the networks in an index that `_read_index` has checked, by component."""
    classes = {name: network_class(index, name) for name in files.NETWORKS if name not in without}
    return {name: network for name, network in classes.items() if network is not None}


def _weights(folder: Path, variant: str | None) -> list[str]:
    """Return the names of a network's safetensors files of a variant, or of none, and of their list if sharded."""
    name = weights_name(variant)
    shard = name.removesuffix(".safetensors") + "-"
    listing = f"{weights_name()}.index.{variant}.json" if variant else f"{name}.index.json"
    files_there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [file for file in files_there if file in (name, listing) or file.startswith(shard)]


def _patterns(parts: list[str], variant: str | None = None) -> list[str]:
    """Return the patterns of the files that the networks of these components are loaded from."""
    stem, name = weights_name(variant).removesuffix(".safetensors"), weights_name()
    listing = f"{name}.index.{variant}.json" if variant else f"{name}.index.json"
    names = ("config.json", f"{stem}.safetensors", f"{stem}-*.safetensors", listing)
    return [f"{part}/{file}" for part in parts for file in names]


def _push_of(options: dict[str, Any]) -> Push:
    return Push(**{name: value for name, value in options.items() if value is not None})


SAID: set[str] = set()


def _say_once(message: str) -> None:
    """Say something once in a process: a run saves often."""
    if message not in SAID:
        SAID.add(message)
        say(message)


def _take_along(run: Path, folder: Path) -> bool:
    """Copy the record of a run to a pipeline that was saved elsewhere; return False if its weights are others."""
    weights = {path: run / path.relative_to(folder) for path in folder.glob("*/*.safetensors")}
    same = all(its.is_file() and its.read_bytes() == ours.read_bytes() for ours, its in weights.items())
    if not (run / files.CONFIG).is_file() or not same:
        return False
    for path in files_that_belong(run):
        target = folder / path.relative_to(run)
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    return True
