"""`WGANPipeline` with saving, publishing and loading: what the code that a model carries can do without."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from diffusers import ModelMixin

from ..hub.code import code_of
from ..hub.publish import Push, files_that_belong, push_folder
from ..utils import files
from ..utils.errors import InputError, one_line
from . import pipeline_wgan


class WGANPipeline(pipeline_wgan.WGANPipeline):
    __doc__ = pipeline_wgan.WGANPipeline.__doc__

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """Loads a pipeline from a folder or from the Hub.

        Args:
            pretrained_model_name_or_path: `"me/model"`, or a folder that `save_pretrained` or training left.
            options: Those of `DiffusionPipeline.from_pretrained`, among them `revision`, `variant`, `torch_dtype`,
                `cache_dir`, `local_files_only` and `token`. No code is ever taken from the repository, and only
                safetensors are read, whatever they say.

        Raises:
            InputError: what is there is no Wasserstein GAN pipeline, or not a safe and whole one.
            OSError: the files cannot be had.

        Example:

        ```py
        >>> import torch
        >>> from hf_wgan import WGANPipeline

        >>> pipeline = WGANPipeline.from_pretrained("me/model", variant="fp16", torch_dtype=torch.float16)
        ```
        """
        if options.get("use_safetensors") is False:
            raise InputError("use_safetensors=False: pickled weights can run code, so only safetensors are loaded")
        options.pop("trust_remote_code", None)  # there is nothing to trust
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **{**options, "use_safetensors": True})
        except OSError as error:
            if "necessary `safetensors` weights" not in str(error):
                raise
            raise InputError(
                f"{pretrained_model_name_or_path} has no safetensors weights for each of its networks; pickled ones "
                f"are not loaded, as they can run code ({one_line(error)})"
            ) from error

    @classmethod
    def _dict_from_json_file(cls, json_file: Any, **options: Any) -> dict[str, Any]:
        index = super()._dict_from_json_file(json_file, **options)
        _check_index(cls, index, json_file)
        return index

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


def _check_index(cls: type, index: Any, json_file: Any) -> None:
    """Refuses a `model_index.json` that names anything but networks which this process knows already.

    Raises:
        InputError: it does.
    """
    found = index.get("_class_name") if isinstance(index, dict) else type(index).__name__
    if found not in ("WGANPipeline", cls.__name__):
        raise InputError(f"{json_file} describes no Wasserstein GAN pipeline, but {found}")
    named = {name: value for name, value in index.items() if isinstance(value, list)}
    if "generator" not in named:
        raise InputError(f"{json_file} names no generator")
    for name, value in named.items():
        if value == [None, None] and name != "generator":
            continue
        library, class_name = value if len(value) == 2 else (None, None)
        # Only what was imported before: importing runs code.
        network = getattr(sys.modules.get(str(library)), str(class_name), None)
        if name not in files.NETWORKS or not (isinstance(network, type) and issubclass(network, ModelMixin)):
            raise InputError(
                f"{json_file} names {value} as {name}, which is no network of hf_wgan or of a module imported before: "
                "not loaded, as importing it would run its code"
            )


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
