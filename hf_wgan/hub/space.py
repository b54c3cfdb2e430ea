"""A Space that serves the demo of a model: its program, the source of this package beside it, and a card."""

import platform
import shlex
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import HFValidationError, validate_repo_id

from ..models.network import weights_name
from ..utils import files
from ..utils.errors import InputError, PushError, one_line
from .card import assemble, merge, metadata
from .code import PACKAGE
from .publish import check_pipeline_folder, published_text, reason

APP, REQUIREMENTS, MODEL = "app.py", "requirements.txt", "model"
INSTALLED = ("torch", "diffusers", "accelerate", "safetensors", "huggingface_hub")  # of what the page imports
PROGRAM = '''"""Serves the demo of a model. Made by scripts/push_space.py of hf_wgan, which replaces it."""

from pathlib import Path

import torch

from hf_wgan import WGANPipeline
from hf_wgan.pipelines.demo import launch, page

pipeline = WGANPipeline.from_pretrained({place})
launch(page(pipeline.to("cuda" if torch.cuda.is_available() else "cpu"), {name!r}))
'''


@dataclass(frozen=True)
class SpacePush:
    """A push of a model's demo.

    Args:
        model: A model on the Hub, which the Space loads from there; or a folder, whose pipeline goes into the Space.
        repo_id: The Space, `"me/space"`, or `"space"` in the namespace of the token's owner.
        token: A token that may write; by default the one that `hf auth login` saved, or that `HF_TOKEN` holds.
        private: Whether the Space is made private, if it is not there yet.

    Raises:
        InputError: a value that no Hub would take.
    """

    model: str
    repo_id: str
    token: str | None = field(default=None, repr=False)
    private: bool = False

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise InputError(f"hub_space_id={self.repo_id!r}: {one_line(error)}") from error

    @property
    def folder(self) -> Path | None:
        return Path(self.model) if Path(self.model).is_dir() else None

    def command(self) -> str:
        """The command that does this push; the token is left out."""
        words = ["python", "scripts/push_space.py", self.model, "--hub_space_id", self.repo_id]
        return shlex.join(words + ["--hub_private_repo"] * self.private)


def push_space(push: SpacePush) -> str:
    """Makes a Space or brings it up to date, in one commit.

    Its program, requirements, package and model are replaced. What a person wrote into its card stays, above and below
    what is made.

    Returns:
        The address of the Space.

    Raises:
        InputError: the folder holds no whole pipeline.
        PushError: the push failed; a Space that was there is as it was.
        ModuleNotFoundError: Gradio, whose version the Space is to have, is not installed.
    """
    import gradio

    if push.folder:
        check_pipeline_folder(push.folder)
    try:
        return _push(push, gradio.__version__)
    except Exception as error:  # the client raises those of three HTTP libraries, by its version
        raise PushError(
            f"The demo of {push.model} was not pushed to {push.repo_id}: {reason(error)}. A Space that was there is as "
            f"it was, and this command finishes the job:\n{push.command()}"
        ) from error


def _push(push: SpacePush, gradio: str) -> str:
    api = HfApi(token=push.token)
    repo_id = api.create_repo(
        push.repo_id, repo_type="space", space_sdk="gradio", private=push.private or None, exist_ok=True
    ).repo_id
    # Our commit is made from this one: if somebody else commits meanwhile, the Hub refuses ours.
    head = api.space_info(repo_id).sha
    published = published_text(api, repo_id, files.CARD, repo_type="space", revision=head)
    if push.folder:
        card = push.folder / files.CARD
        about = metadata(card.read_text(encoding="utf-8") if card.is_file() else "")
    else:
        about = metadata(published_text(api, push.model, files.CARD))
    uploads = _uploads(push) | {files.CARD: merge(_card(push, about, gradio), "", published).encode()}
    there = api.list_repo_files(repo_id, repo_type="space", revision=head)
    stale = [name for name in there if name.startswith((f"{PACKAGE}/", f"{MODEL}/")) and name not in uploads]
    commit = api.create_commit(
        repo_id,
        [CommitOperationAdd(name, source) for name, source in uploads.items()]
        + [CommitOperationDelete(name) for name in stale],
        commit_message=f"The demo of {_name(push)}",
        repo_type="space",
        parent_commit=head,
    )
    return str(commit.repo_url)


def needs_token(push: SpacePush) -> bool:
    """Whether the Space will load a model that not everybody may read."""
    return not push.folder and bool(HfApi(token=push.token).model_info(push.model).private)


def _name(push: SpacePush) -> str:
    return push.folder.resolve().name if push.folder else push.model


def _uploads(push: SpacePush) -> dict[str, Any]:
    """What belongs into the Space but its card, by its name there."""
    place = f'Path(__file__).with_name("{MODEL}")' if push.folder else repr(push.model)
    requirements = "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in INSTALLED)
    uploads: dict[str, Any] = {
        APP: PROGRAM.format(name=_name(push), place=place).encode(),
        REQUIREMENTS: requirements.encode(),
    }
    package = Path(__file__).parents[1]  # not on PyPI
    uploads |= {f"{PACKAGE}/{path.relative_to(package).as_posix()}": path for path in sorted(package.rglob("*.py"))}
    if push.folder:
        pipeline = [
            files.INDEX,
            *(f"{part}/{name}" for part in files.NETWORKS for name in ("config.json", weights_name())),
        ]
        uploads |= {f"{MODEL}/{name}": push.folder / name for name in pipeline if (push.folder / name).is_file()}
    return uploads


def _card(push: SpacePush, about: dict[str, Any], gradio: str) -> str:
    """The card of the Space, from the metadata of the model's."""
    name = _name(push)
    data: dict[str, Any] = {
        "title": name.rpartition("/")[2],
        "emoji": "🎲",
        "colorFrom": "yellow",
        "colorTo": "red",
        "sdk": "gradio",
        "sdk_version": gradio,
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "app_file": APP,
        **{key: about[key] for key in ("license", "license_name", "license_link") if key in about},
        **({} if push.folder else {"models": [push.model]}),
        "tags": ["hf_wgan", "wgan", "gan"],
    }
    model = name if push.folder else f"[{name}](https://huggingface.co/{name})"
    text = (
        f"# {data['title']}\n\nMakes images with {model}, a Wasserstein GAN: of a seed, more or less typical, and as a "
        "film from one to another.\n\n"
        f"`{APP}`, `{REQUIREMENTS}` and the folders are replaced whenever `scripts/push_space.py` pushes again."
    )
    return assemble(data, "", text, "")
