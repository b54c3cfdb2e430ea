"""From a pipeline's folder to a repository on the Hub: what belongs there, in one commit, or nothing at all."""

import shlex
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import HFValidationError, disable_progress_bars, enable_progress_bars, validate_repo_id

from ..models.network import weights_name
from ..utils import files
from ..utils.console import say
from ..utils.errors import InputError, PushError, one_line
from .card import make_card, merge

VARIANTS = {"fp16": torch.float16, "bf16": torch.bfloat16}
PATTERNS = [
    files.INDEX, files.CARD, files.CONFIG, files.METRICS, files.EVALUATION, files.CURVES, files.CARRIED_CODE,
    f"{files.SAMPLES}/*.png",
    *(f"{network}/{pattern}" for network in files.NETWORKS for pattern in ("config.json", "*.safetensors", "*.py")),
]  # fmt: skip
REPLACED = ("hf_wgan_", f"{files.SAMPLES}/", *(f"{network}/" for network in files.NETWORKS))  # by every push


@dataclass(frozen=True)
class Push:
    """A push to a repository.

    Args:
        repo_id: `"me/model"`, or `"model"` in the namespace of the token's owner.
        token: A token that may write; by default the one that `hf auth login` saved, or that `HF_TOKEN` holds.
        private: Whether the repository is made private, if it is not there yet.
        revision: Branch to push to, made if it is not there; the main one by default.
        create_pr: Whether to open a pull request instead of changing the branch.
        commit_message: What the commit is called.
        variant: `"fp16"` or `"bf16"` to add weights of that precision beside the full ones.
        with_checkpoint: Whether the newest checkpoint goes up too, optimizers and all.

    Raises:
        InputError: a value that no Hub would take.
    """

    repo_id: str
    token: str | None = field(default=None, repr=False)
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    commit_message: str = "Upload a Wasserstein GAN"
    variant: str | None = None
    with_checkpoint: bool = False

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise InputError(f"hub_model_id={self.repo_id!r}: {one_line(error)}") from error
        if self.variant not in (None, *VARIANTS):
            raise InputError(f"variant={self.variant!r}: must be {' or '.join(VARIANTS)}")

    def command(self, folder: Path) -> str:
        """The command that does this push; the token is left out."""
        words = ["python", "scripts/push_to_hub.py", str(folder), "--hub_model_id", self.repo_id]
        words += ["--hub_private_repo"] * self.private + ["--create_pr"] * self.create_pr
        words += ["--with_checkpoint"] * self.with_checkpoint
        for name in ("revision", "variant"):
            if value := getattr(self, name):
                words += [f"--{name}", value]
        if self.commit_message != Push.commit_message:
            words += ["--commit_message", self.commit_message]
        return shlex.join(words)


def files_that_belong(folder: Path) -> list[Path]:
    """What of a run's folder goes to the Hub."""
    return [path for pattern in PATTERNS for path in sorted(folder.glob(pattern))]


def push_folder(folder: Path, push: Push) -> str:
    """Pushes a folder that holds a pipeline, and what else a run left in it, in one commit.

    What an earlier push left of the pipeline, its code and its samples and is no longer there goes away in the same
    commit; variants that were there are made from the new weights. What a person wrote into the card, there or here,
    stays; the card in the folder is brought up to date.

    Args:
        folder: Holds `model_index.json`.
        push: Where to and how.

    Returns:
        The address of the repository, or of the pull request.

    Raises:
        InputError: the folder holds no whole pipeline.
        PushError: the push failed, or its last answer was lost. The folder is as it was; on the Hub nothing of the push
            can be seen, or, in that last case, all of it.
    """
    check_pipeline_folder(folder)
    try:
        return _push(folder, push)
    except InputError:
        raise
    except Exception as error:  # the client raises those of three HTTP libraries, by its version
        raise PushError(
            f"{folder} was not pushed to {push.repo_id}: {reason(error)}. Nothing is lost: the folder is whole, and "
            f"this command finishes the job:\n{push.command(folder)}"
        ) from error


def problem_with(push: Push) -> str | None:
    """Why a push would fail as things are; None if nothing speaks against it. Makes the repository."""
    try:
        _make_repository(HfApi(token=push.token), push)
    except Exception as error:  # as above
        return reason(error)
    return None


def check_pipeline_folder(folder: Path) -> None:
    """Whether the folder can be pushed.

    Raises:
        InputError: it holds no whole pipeline.
    """
    if not (folder / files.INDEX).is_file():
        raise InputError(f"{str(folder)!r} holds no pipeline: there is no {files.INDEX} in it")
    if not (folder / "generator" / weights_name()).is_file():
        raise InputError(f"{str(folder)!r} holds no whole pipeline: generator/{weights_name()} is missing")


def _make_repository(api: HfApi, push: Push) -> str:
    """Its full name, whether it is new or was there already."""
    return api.create_repo(push.repo_id, private=push.private or None, exist_ok=True).repo_id


def _push(folder: Path, push: Push) -> str:
    api = HfApi(token=push.token)
    repo_id = _make_repository(api, push)
    if push.revision:
        api.create_branch(repo_id, branch=push.revision, exist_ok=True)
    # Our commit is made from this one: if somebody else commits meanwhile, the Hub refuses ours.
    head = api.model_info(repo_id, revision=push.revision).sha
    published = published_text(api, repo_id, files.CARD, revision=head)
    local = folder / files.CARD
    card = merge(make_card(folder, repo_id), local.read_text(encoding="utf-8") if local.is_file() else "", published)
    with tempfile.TemporaryDirectory() as temporary:
        there = api.list_repo_files(repo_id, revision=head)
        variants = {name for name in VARIANTS if name == push.variant or any(f".{name}." in file for file in there)}
        uploads = _uploads(folder, push, variants, Path(temporary)) | {files.CARD: card.encode()}
        replaced = (*REPLACED, "checkpoint-") if push.with_checkpoint else REPLACED
        stale = [name for name in there if name.startswith(replaced) and name not in uploads]
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(name, source) for name, source in uploads.items()]
            + [CommitOperationDelete(name) for name in stale],
            commit_message=push.commit_message,
            revision=push.revision,
            create_pr=push.create_pr,
            parent_commit=head,
        )
    with suppress(OSError):  # the push itself is done
        local.write_text(card, encoding="utf-8")
    return commit.pr_url or str(commit.repo_url)


def _uploads(folder: Path, push: Push, variants: set[str], temporary: Path) -> dict[str, Any]:
    """What belongs on the Hub, by its name there."""
    found = files_that_belong(folder)
    if push.with_checkpoint and (checkpoints := files.checkpoints(folder)):
        found += [path for path in sorted(checkpoints[-1].rglob("*")) if path.is_file()]
    uploads: dict[str, Any] = {path.relative_to(folder).as_posix(): path for path in found}
    for weights in [folder / network / weights_name() for network in files.NETWORKS]:
        for variant in variants if weights.is_file() else ():
            path = temporary / f"{weights.parent.name}.{variant}"
            uploads[f"{weights.parent.name}/{weights_name(variant)}"] = _in_precision(weights, variant, path)
    return uploads


def _in_precision(weights: Path, variant: str, path: Path) -> Path:
    tensors = {
        name: tensor.to(VARIANTS[variant]) if tensor.is_floating_point() else tensor
        for name, tensor in safetensors.torch.load_file(weights).items()
    }
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(f"variant={variant!r}: {name} of {weights} is not finite in this precision; use bf16")
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    return path


def published_text(api: HfApi, repo_id: str, name: str, **where: Any) -> str:
    """The content of a file on the Hub; empty if there is none of this name.

    Args:
        where: Options of `hf_hub_download`.
    """
    try:
        return Path(api.hf_hub_download(repo_id, name, **where)).read_text(encoding="utf-8")
    except EntryNotFoundError:
        return ""


def reason(error: Exception) -> str:
    """What went wrong at the Hub, and what mends it."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "no valid token; log in by `hf auth login`, or set HF_TOKEN or --hub_token"
    if status == 403:
        return f"the token has no right to write there ({one_line(error)})"
    if status == 412:
        return "somebody else changed the repository meanwhile"
    return one_line(error) or type(error).__name__


class BackgroundPushes:
    """Pushes of a run that goes on meanwhile: one at a time, each of a copy; what comes during a push is left out.

    Args:
        folder: The run's folder.
        push: Where to and how.
    """

    def __init__(self, folder: Path, push: Push):
        self.folder, self.push = folder, push
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        self._last: Future[None] | None = None

    def push_copy(self, step: int) -> None:
        """Starts to push the folder as it is now, unless an earlier push is still under way."""
        if self._last is not None and not self._last.done():
            return
        copy = Path(tempfile.mkdtemp()) / self.folder.resolve().name
        for path in files_that_belong(self.folder):
            target = copy / path.relative_to(self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        self._last = self._worker.submit(self._run, copy, step)

    def _run(self, copy: Path, step: int) -> None:
        disable_progress_bars()  # which would run through training's own
        try:
            push_folder(copy, replace(self.push, commit_message=f"Step {step}"))
        except (InputError, PushError) as error:
            say(f"Step {step} was not pushed, training goes on: {error.__cause__ or error}")
        finally:
            enable_progress_bars()
            shutil.rmtree(copy.parent, ignore_errors=True)

    def finish(self) -> None:
        """Waits for the push under way."""
        self._worker.shutdown(wait=True)
