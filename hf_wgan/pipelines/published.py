"""`WGANPipeline` with saving, publishing and loading: what the code that a model carries can do without."""

import inspect
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from diffusers import ModelMixin
from huggingface_hub import hf_hub_download, snapshot_download

from ..hub.code import code_of, without_carried_code
from ..hub.publish import Push, files_that_belong, push_folder
from ..models.network import weights_name
from ..utils import files
from ..utils.errors import InputError, one_line
from . import pipeline_wgan


class WGANPipeline(pipeline_wgan.WGANPipeline):
    __doc__ = pipeline_wgan.WGANPipeline.__doc__

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """Load a pipeline from a folder or from the Hub.

        No code is ever taken from the folder or the repository: the networks are built from classes that this process
        has imported already, whatever files lie beside their weights. Only safetensors are read.

        Args:
            pretrained_model_name_or_path: `"me/model"`, or a folder that `save_pretrained` or training left.
            options: Those of `DiffusionPipeline.from_pretrained` that apply here: `torch_dtype` (or `dtype`),
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

        >>> pipeline = WGANPipeline.from_pretrained("me/model", variant="fp16", torch_dtype=torch.float16)
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
        for name, value in options.items():
            if name not in _NETWORK_OPTIONS:
                known = ", ".join((*_DTYPE_OPTIONS, "variant", *_NETWORK_OPTIONS, *_HUB_OPTIONS))
                raise InputError(f"{name}={value!r}: WGANPipeline.from_pretrained takes {known}")

        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = cls.download(pretrained_model_name_or_path, variant=variant, **hub_options)
        index = _read_index(cls, folder / files.INDEX)
        classes = {name: value for name, value in _classes(index).items() if name not in arguments}
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
                torch_dtype=dtype.get(name, dtype.get("default")) if isinstance(dtype, dict) else dtype,
                use_safetensors=True,
                **options,
            )
        values = {name: index[name] for name in parameters if name in index and not isinstance(index[name], list)}
        pipeline = cls(**{**values, **arguments})
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline

    @classmethod
    def download(cls, pretrained_model_name: Any, variant: str | None = None, **options: Any) -> Path:
        """Download what `from_pretrained` reads of a model on the Hub, which is no code, and return its folder.

        Args:
            pretrained_model_name: `"me/model"`.
            variant: Variant of the weights; networks that lack it are downloaded in full precision.
            options: `revision`, `cache_dir`, `local_files_only`, `force_download` and `token`.
        """
        name = str(pretrained_model_name)
        index = Path(hf_hub_download(name, files.INDEX, **options))
        folder, parts = index.parent, list(_classes(_read_index(cls, index)))
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
        super().save_pretrained(save_directory, **options)
        if push_to_hub:
            self.push_to_hub(**{"repo_id": Path(save_directory).name, **push_options})

    save_pretrained.__doc__ = pipeline_wgan.WGANPipeline.save_pretrained.__doc__

    @staticmethod
    def _code_of(of: type) -> tuple[str, str] | None:
        return code_of(pipeline_wgan.WGANPipeline if of is WGANPipeline else of)

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
        """Pushes the pipeline and its card, in one commit.

        If it was loaded from a run's folder or left by training, and its weights are still those, the run's samples,
        curves and record go along.

        Args:
            repo_id: `"me/model"`, or `"model"` in the namespace of the token's owner.
            commit_message: What the commit is called.
            private: Whether the repository is made private, if it is not there yet.
            token: A token that may write; by default the one that `hf auth login` saved, or that `HF_TOKEN` holds.
            create_pr: Whether to open a pull request instead of changing the branch.
            variant: `"fp16"` or `"bf16"` to add weights of that precision beside the full ones.
            revision: Branch to push to, made if it is not there.

        Returns:
            The address of the repository, or of the pull request.

        Raises:
            InputError: a value that no Hub would take.
            PushError: the push failed, and nothing of it can be seen on the Hub.

        Example:

        ```py
        >>> from hf_wgan import WGANPipeline

        >>> WGANPipeline.from_pretrained("wgan-digits").push_to_hub("me/wgan-digits", variant="fp16")
        ```
        """
        push = Push(repo_id, token, private, revision, create_pr, commit_message, variant)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "pipeline"
            self.save_pretrained(folder)
            _take_along(Path(str(self.name_or_path or "")), folder)
            return push_folder(folder, push)


_PUSH_OPTIONS = ("repo_id", "commit_message", "private", "token", "create_pr", "revision")
_DTYPE_OPTIONS = ("torch_dtype", "dtype")
_HUB_OPTIONS = ("revision", "cache_dir", "local_files_only", "force_download", "token")
_NETWORK_OPTIONS = ("device_map", "max_memory", "offload_folder", "offload_state_dict", "low_cpu_mem_usage")


def _read_index(cls: type, path: Path) -> dict[str, Any]:
    """Read a `model_index.json`, and check that it names nothing but networks which this process knows already.

    Raises:
        InputError: It does not.
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
    entries = {name: value for name, value in index.items() if isinstance(value, list)}
    if "generator" not in entries:
        raise InputError(f"{path} names no generator")
    for name, value in entries.items():
        if value == [None, None] and name != "generator":
            continue
        if name not in files.NETWORKS or _class_of(value) is None:
            raise InputError(
                f"{path} names {value} as {name}, which is no network of hf_wgan or of a module imported before: "
                "not loaded, as importing it would run its code"
            )
    return index


def _classes(index: dict[str, Any]) -> dict[str, Any]:
    """Return the classes of the networks in an index that `_read_index` has checked, by component."""
    classes = {name: _class_of(index.get(name)) for name in files.NETWORKS}
    return {name: network for name, network in classes.items() if network is not None}


def _class_of(entry: Any) -> Any:
    """Return the network class that `[module, class]` names; None if it is none of a module imported before.

    Only modules that are imported already are looked into, and no file is looked for: importing runs code.
    """
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)):
        return None
    network = getattr(sys.modules.get(entry[0]), entry[1], None)
    return network if isinstance(network, type) and issubclass(network, ModelMixin) else None


def _weights(folder: Path, variant: str | None) -> list[str]:
    """Return the names of a network's safetensors files of a variant, or of none, and of their list if sharded."""
    name = weights_name(variant)
    shard = name.removesuffix(".safetensors") + "-"
    listing = f"{weights_name()}.index.{variant}.json" if variant else f"{name}.index.json"
    found = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [each for each in found if each in (name, listing) or each.startswith(shard)]


def _patterns(parts: list[str], variant: str | None = None) -> list[str]:
    """Return the patterns of the files that the networks of these components are loaded from."""
    stem, name = weights_name(variant).removesuffix(".safetensors"), weights_name()
    listing = f"{name}.index.{variant}.json" if variant else f"{name}.index.json"
    names = ("config.json", f"{stem}.safetensors", f"{stem}-*.safetensors", listing)
    return [f"{part}/{file}" for part in parts for file in names]


def _take_along(run: Path, folder: Path) -> None:
    """Copies the record of a run to a pipeline that was saved elsewhere, if it has the run's weights."""
    weights = {path: run / path.relative_to(folder) for path in folder.glob("*/*.safetensors")}
    same = all(its.is_file() and its.read_bytes() == ours.read_bytes() for ours, its in weights.items())
    if not (run / files.CONFIG).is_file() or not same:
        return
    for path in files_that_belong(run):
        target = folder / path.relative_to(run)
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
