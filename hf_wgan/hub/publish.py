"""Push the folder of a pipeline to a repository on the Hub: what belongs there, in one commit, or nothing at all."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import HFValidationError, disable_progress_bars, enable_progress_bars, validate_repo_id

from ..models.network import weights_name
from ..utils import files
from ..utils.commands import shell_command
from ..utils.console import say
from ..utils.errors import InputError, PushError, check_is_name, one_line
from ..utils.secrets import public
from .card import make_card, merge, read_evaluation
from .code import SOURCE_MODULES, carried_code, import_options, source_module, without_carried_code

VARIANTS = {"fp16": torch.float16, "bf16": torch.bfloat16}
PATTERNS = [
    *(
        files.INDEX,
        files.CARD,
        files.CONFIG,
        files.METRICS,
        files.EVALUATION,
        files.CURVES,
        files.VIDEO,
        f"{files.SAMPLES}/step-*{files.GRID_SUFFIX}",
    ),
    *(f"{network}/{pattern}" for network in files.NETWORKS for pattern in ("config.json", "*.safetensors")),
]
"""What of a folder is pushed as it is. Code is not: it is generated again, so that only our own is ever published."""
REPLACED = ("hf_wgan_", f"{files.SAMPLES}/", *(f"{network}/" for network in files.NETWORKS))
"""How the names of files begin that every push replaces."""


@dataclass(frozen=True)
class Push:
    """A push to a repository.

    Args:
        repo_id: `"me/model"`, or `"model"` in the namespace of the token's owner.
        token: A token with write access; by default the one that `hf auth login` saved, or `HF_TOKEN`.
        private: Whether a new repository is private.
        revision: Branch to push to, created if it does not exist; the main branch by default.
        create_pr: Whether to open a pull request instead of changing the branch.
        commit_message: Message of the commit.
        variant: `"fp16"` or `"bf16"` to add weights of that precision beside the full ones.
        with_checkpoint: Whether to push the newest checkpoint too, with its optimizers.

    Raises:
        InputError: A value that no Hub accepts.
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
        check_repo_id("hub_model_id", self.repo_id)
        for name in ("revision", "commit_message"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise InputError(f"{name}={value!r}: must not be empty; leave it out")
        if self.variant not in (None, *VARIANTS):
            raise InputError(f"variant={self.variant!r}: must be {' or '.join(VARIANTS)}")

    def command(self, folder: Path | str, imports: Sequence[str] = ()) -> str:
        """Return the command that does this push, without the token.

        Args:
            folder: The folder to push.
            imports: The options by which its networks are imported.
        """
        words = ["push", str(folder), *imports, "--hub_model_id", self.repo_id]
        words += ["--hub_private_repo"] * self.private + ["--create_pr"] * self.create_pr
        words += ["--with_checkpoint"] * self.with_checkpoint
        for name in ("revision", "variant"):
            if value := getattr(self, name):
                words += [f"--{name}", value]
        if self.commit_message != Push.commit_message:
            words += ["--commit_message", self.commit_message]
        return shell_command(*words)


def check_repo_id(option: str, repo_id: str) -> None:
    """Check the name of a repository.

    Raises:
        InputError: No Hub accepts it.
    """
    check_is_name(option, repo_id)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{option}={repo_id!r}: {one_line(error)}") from error


class Repository:
    """A repository on the Hub as it was when a push began, which the push changes in one commit.

    Args:
        api: The client.
        repo_id: Full name of the repository.
        repo_type: `"model"` or `"space"`.
        revision: Branch; the main one by default.
    """

    def __init__(self, api: HfApi, repo_id: str, repo_type: str = "model", revision: str | None = None):
        self.api, self.repo_id, self.repo_type, self.revision = api, repo_id, repo_type, revision
        info: Any = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
        self.head = info.sha
        self.files = [file.rfilename for file in info.siblings or []]

    def text(self, name: str) -> str:
        """Return the content of a file; empty if there is no such file."""
        return published_text(self.api, self.repo_id, name, repo_type=self.repo_type, revision=self.head)

    def commit(
        self, uploads: dict[str, Any], message: str, replaced: Sequence[str] = (), create_pr: bool = False
    ) -> CommitInfo:
        """Upload files and delete others in one commit.

        `HfApi.upload_folder` does not serve: with Xet storage it makes several commits of a large folder, and what is
        uploaded here is not all in one folder.

        Args:
            uploads: Paths or bytes by name in the repository.
            message: Message of the commit.
            replaced: Beginnings of names: files that begin so and are not uploaded are deleted.
            create_pr: Whether to open a pull request instead.
        """
        stale = [name for name in self.files if name.startswith(tuple(replaced)) and name not in uploads]
        return self.api.create_commit(
            self.repo_id,
            [CommitOperationAdd(name, source) for name, source in uploads.items()]
            + [CommitOperationDelete(name) for name in stale],
            commit_message=message,
            repo_type=self.repo_type,
            revision=self.revision,
            create_pr=create_pr,
            parent_commit=self.head,  # the Hub refuses the commit if somebody else commits meanwhile
        )


@contextmanager
def push_errors(failure: str, remedy: str) -> Iterator[None]:
    """Turn every error of the client into a `PushError`.

    Args:
        failure: The action that failed.
        remedy: What remains to be done, and the command that does it.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the client raises those of three HTTP libraries, by its version
        raise PushError(f"{failure}: {reason(error)}. {remedy}") from error


def files_that_belong(folder: Path) -> list[Path]:
    """Return the files of a run's folder that are pushed as they are.

    Raises:
        InputError: One of them is a link to a file outside the folder.
    """
    paths = [path for pattern in PATTERNS for path in sorted(folder.glob(pattern))]
    _check_links(paths, folder)
    return paths


def push_folder(folder: Path, push: Push, remedy: str | None = None, called: str | None = None) -> str:
    """Push a folder that holds a pipeline, and the record of a run in it, in one commit.

    The commit also deletes what an earlier push left of the pipeline, its code and its samples and is no longer there;
    variants that exist are made again from the new weights. The code of the networks is generated from the imported
    classes: files with code in the folder are not published. What a person wrote into the card, in the folder or on
    the Hub, stays; the card in the folder is updated.

    Args:
        folder: Holds `model_index.json`.
        push: The repository and the options.
        remedy: What the message of a failed push recommends; by default the command that pushes the folder.
        called: What that message calls the folder, where it is a temporary one.

    Returns:
        The URL of the repository, or of the pull request.

    Raises:
        InputError: The folder holds no complete pipeline, links to files elsewhere, or code that is not imported; or
            another process writes to it.
        PushError: The push failed, or its last answer was lost. The folder is unchanged; on the Hub nothing of the push
            can be seen, or, in that last case, all of it.
    """
    check_pipeline_folder(folder)
    if remedy is None:
        command = push.command(folder, imports_of(folder))
        remedy = f"Nothing is lost: the folder is complete, and this command completes the push:\n{command}"
    with files.locked(folder), push_errors(f"{called or folder} was not pushed to the Hub as {push.repo_id}", remedy):
        return _push(folder, push)


def problem_with(push: Push) -> str | None:
    """Create the repository, and return why a push would fail now; None if nothing speaks against it."""
    try:
        _make_repository(HfApi(token=push.token), push)
    except Exception as error:  # as in push_errors
        return reason(error)
    return None


def what_a_push_would_do(push: Push) -> str:
    """Return who would push where, or why nobody could now, in words. Nothing is created."""
    try:
        name = HfApi(token=push.token).whoami()["name"]
    except Exception as error:  # as in push_errors
        return f"a push to {push.repo_id} would fail now: {reason(error)}"
    return f"{name} pushes to {push.repo_id}"


def check_pipeline_folder(folder: Path) -> None:
    """Check whether a folder can be pushed.

    Raises:
        InputError: It holds no complete pipeline, a damaged one, or links to files elsewhere.
    """
    if not (folder / files.INDEX).is_file():
        raise InputError(f"{str(folder)!r} holds no pipeline: there is no {files.INDEX} in it")
    if not (folder / "generator" / weights_name()).is_file():
        raise InputError(f"{str(folder)!r} holds no complete pipeline: generator/{weights_name()} is missing")
    files_that_belong(folder)
    files.read_mapping(folder / files.INDEX)


def pipeline_code(folder: Path) -> dict[str, bytes]:
    """Return the code that the pipeline of a folder carries, by file name, generated from the imported classes.

    Raises:
        InputError: Code of the author's own belongs to the pipeline, and its module is not imported.
    """
    written = files.read_mapping(folder / files.INDEX)
    index = without_carried_code(written)
    code = carried_code(index, written)
    own = index.get(SOURCE_MODULES)
    for component in files.NETWORKS:
        entry = written.get(component)
        if not isinstance(entry, list) or entry[:1] == [None] or any(name.startswith(f"{component}/") for name in code):
            continue
        module = source_module(index, component)
        if isinstance(own, dict) and component in own:
            raise InputError(
                f"{folder / component} has code of {module}, which is not imported. Only code that hf_wgan generates "
                f"from imported modules is published: import it first (`import {module}` in Python, --import {module} "
                "on the command line)"
            )
        say(
            f"The code of the {component} ({'.'.join(map(str, entry))}) is not pushed, as the model does not carry it: "
            "only people who have that class can load the model."
        )
    return code


def imports_of(folder: Path) -> list[str]:
    """Return the options `--import` that a command needs for the pipeline of a folder."""
    return import_options(files.read_mapping(folder / files.INDEX))


def _make_repository(api: HfApi, push: Push) -> str:
    """Create the repository unless it exists, and return its full name."""
    return api.create_repo(push.repo_id, private=push.private or None, exist_ok=True).repo_id


def _push(folder: Path, push: Push) -> str:
    code = pipeline_code(folder)
    api = HfApi(token=push.token)
    repo_id = _make_repository(api, push)
    if push.revision:
        api.create_branch(repo_id, branch=push.revision, exist_ok=True)
    repository = Repository(api, repo_id, revision=push.revision)
    card = merge(make_card(folder, repo_id), files.read_text(folder / files.CARD, folder), repository.text(files.CARD))
    with tempfile.TemporaryDirectory() as temporary:
        there = repository.files
        variants = {name for name in VARIANTS if name == push.variant or any(f".{name}." in file for file in there)}
        uploads = _uploads(folder, push, variants, Path(temporary)) | code | {files.CARD: card.encode()}
        replaced = (*REPLACED, "checkpoint-") if push.with_checkpoint else REPLACED
        commit = repository.commit(uploads, push.commit_message, replaced, push.create_pr)
    with suppress(OSError):  # the push itself is done
        files.write_text(folder / files.CARD, card)
    return commit.pr_url or str(commit.repo_url)


def _uploads(folder: Path, push: Push, variants: set[str], temporary: Path) -> dict[str, Any]:
    """Return the files that belong on the Hub as they are, by their names there."""
    paths = files_that_belong(folder)
    if push.with_checkpoint and (checkpoints := files.checkpoints(folder)):
        paths += files.manifest_files(checkpoints[-1])
        _check_links(paths, folder)
    paths = [path for path in paths if path.name != files.EVALUATION or read_evaluation(folder)]
    uploads: dict[str, Any] = {path.relative_to(folder).as_posix(): _published(path) for path in paths}
    for name in [name for name in uploads if name.endswith(f"/{files.MANIFEST}")]:
        uploads[name] = _manifest(folder / name, uploads)
    for weights in [folder / network / weights_name() for network in files.NETWORKS]:
        for variant in variants if weights.is_file() else ():
            path = temporary / f"{weights.parent.name}.{variant}"
            uploads[f"{weights.parent.name}/{weights_name(variant)}"] = _in_precision(weights, variant, path)
    return uploads


def _published(path: Path) -> Path | bytes:
    """Return a file as it is published: records and metrics without local paths and credentials."""
    if path.name not in (files.CONFIG, files.EVALUATION, files.INDEX, "config.json"):
        return path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return path
    if not isinstance(content, dict):
        return _json(public(content))
    if path.name in (files.INDEX, "config.json"):
        content.pop("_name_or_path", None)  # where it was loaded from
        return _json(content)
    if path.name == files.CONFIG and isinstance(content.get("dataset"), dict):
        dataset = content["dataset"]
        for options in (
            content.get("training") or {},
            dataset.get("config") or {},
            {} if dataset.get("hub_id") else dataset,
        ):
            for name, value in options.items():
                if isinstance(value, str) and (name in ("name", "resume_from_checkpoint") or name.endswith("_dir")):
                    options[name] = Path(value).name
    return _json(public(content))


def _manifest(path: Path, uploads: dict[str, Any]) -> bytes:
    """Return a checkpoint's manifest for the content that is uploaded."""
    manifest = files.read_mapping(path, "remove this checkpoint")
    for name, entry in manifest.items():
        content = uploads.get((Path(path.parent.name) / name).as_posix())
        if isinstance(content, bytes):
            entry |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return _json(manifest)


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _check_links(paths: list[Path], folder: Path) -> None:
    for path in paths:
        if files.leads_outside(path, folder):
            raise InputError(
                f"{path} is a link to a file outside the folder, which a push never follows: remove it, or replace it "
                "by the file"
            )


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


def published_text(api: HfApi, repo_id: str, name: str, **options: Any) -> str:
    """Return the content of a file on the Hub; empty if there is no such file.

    Args:
        api: The client.
        repo_id: The repository.
        name: Name of the file in it.
        options: Those of `hf_hub_download`.
    """
    try:
        return Path(api.hf_hub_download(repo_id, name, **options)).read_text(encoding="utf-8")
    except EntryNotFoundError:
        return ""


def reason(error: Exception) -> str:
    """Return why the Hub failed, and the remedy."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "no valid token; log in by `hf auth login`, or set HF_TOKEN or --hub_token"
    if status == 403:
        return f"the token has no right to write there ({one_line(error)})"
    if status == 412:
        return "somebody else changed the repository meanwhile"
    return one_line(error).rstrip(".") or type(error).__name__


class BackgroundPushes:
    """Pushes during training: one at a time, each of a copy. While one is under way, others are left out.

    Args:
        folder: The run's folder.
        push: The repository and the options.
    """

    def __init__(self, folder: Path, push: Push):
        self.folder, self.push = folder, push
        self._api = HfApi()
        self._last: Future[None] | None = None

    def push_copy(self, step: int) -> None:
        """Start to push the folder as it is now, unless an earlier push is still under way."""
        if self._last is not None and not self._last.done():
            return
        copy = Path(tempfile.mkdtemp()) / self.folder.resolve().name
        try:
            for path in files_that_belong(self.folder):
                target = copy / path.relative_to(self.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        except (InputError, OSError) as error:
            shutil.rmtree(copy.parent, ignore_errors=True)
            say(f"Step {step} was not pushed, training continues: {error}")
            return
        self._last = self._api.run_as_future(self._run, copy, step)

    def _run(self, copy: Path, step: int) -> None:
        disable_progress_bars()  # which would run through training's own
        try:
            push_folder(copy, replace(self.push, commit_message=f"Step {step}"))
        except (InputError, PushError) as error:
            say(f"Step {step} was not pushed, training continues: {error.__cause__ or error}")
        finally:
            enable_progress_bars()
            shutil.rmtree(copy.parent, ignore_errors=True)

    def finish(self) -> None:
        """Wait for the push under way."""
        if self._last is not None:
            wait([self._last])
