"""`hf-wgan push` and `hf-wgan space`: a model, or the demo of a model, on the Hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..utils.options import Options, option
from .common import MODEL_HELP, command, load_pipeline, parser_for

TOKEN_HELP = "Token with write access; by default that of `hf auth login`, or HF_TOKEN."


@dataclass(frozen=True)
class PushConfig(Options):
    """Publishing"""

    hub_model_id: str | None = option(None, "Repository, as user/model; by default the folder's name.")
    hub_token: str | None = option(None, TOKEN_HELP, secret=True)
    hub_private_repo: bool = option(False, "Create the repository as a private one, if it does not exist yet.")
    revision: str | None = option(None, "Branch to push to, created if necessary; the main branch by default.")
    create_pr: bool = option(False, "Open a pull request instead of changing the branch.")
    commit_message: str = option("Upload a Wasserstein GAN", "Message of the commit.", several_lines=True)
    variant: Literal["fp16", "bf16"] | None = option(None, "Add weights of this precision beside those in float32.")
    with_checkpoint: bool = option(False, "Push the newest checkpoint too, with its optimizers.")


@command
def push(args: Sequence[str] | None = None) -> int:
    """Push a trained model to the Hub, or finish a push that failed.

    hf-wgan push wgan-digits --hub_model_id me/wgan-digits --variant fp16
    """
    from ..hub.publish import Push, push_folder

    parser = parser_for(push, "push", PushConfig, stray="--hub_model_id names the repository")
    parser.add_argument("folder", help="Folder left by training or save_pretrained.")
    parsed = parser.parse(args)
    (config,), folder = parsed.configs, Path(parsed.others["folder"])
    settings = Push(
        repo_id=config.hub_model_id or folder.resolve().name,
        token=config.hub_token,
        private=config.hub_private_repo,
        revision=config.revision,
        create_pr=config.create_pr,
        commit_message=config.commit_message,
        variant=config.variant,
        with_checkpoint=config.with_checkpoint,
    )
    print(f"Pushed to {push_folder(folder, settings)}.")
    return 0


@dataclass(frozen=True)
class PushSpaceConfig(Options):
    """Publishing"""

    hub_space_id: str | None = option(None, "Space, as user/space; by default the model's name.")
    hub_token: str | None = option(None, TOKEN_HELP, secret=True)
    hub_private_repo: bool = option(False, "Create the Space as a private one, if it does not exist yet.")


@command
def space(args: Sequence[str] | None = None) -> int:
    """Create or update a Space on the Hub that serves the demo of a model.

    hf-wgan space me/wgan-digits --hub_space_id me/wgan-digits
    """
    from ..hub.space import SpacePush, needs_token, push_space

    parser = parser_for(space, "space", PushSpaceConfig, stray="--hub_space_id names the Space")
    parser.add_argument("model", help=MODEL_HELP)
    parsed = parser.parse(args)
    (config,), model = parsed.configs, parsed.others["model"]
    name = Path(model).resolve().name if Path(model).is_dir() else model
    settings = SpacePush(model, config.hub_space_id or name, config.hub_token, config.hub_private_repo)
    load_pipeline(model, token=config.hub_token)  # a model that cannot be loaded here cannot be loaded in the Space
    print(f"Pushed to {push_space(settings)}.")
    if needs_token(settings):
        print(f"{model} is private: in the Space's settings, add a token that may read it, as the secret HF_TOKEN.")
    return 0
