"""A Hub on loopback that unmodified clients read from and write to, and that fails when it is told to.

Models, datasets and Spaces, over plain HTTP and git LFS. Not spoken: the hardware, secrets and runs of Spaces, tags,
discussions, organizations, `.gitignore`, pages of results, multipart uploads and xet.
"""

import base64
import hashlib
import json
import math
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import RLock, Thread
from typing import Any, NamedTuple
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = (".bin", ".png", ".pt", ".safetensors")
LARGE_SIZE = 10_000_000
API = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
WEB = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)"
REVISION = r"/(?P<revision>[^/]+)"
ROUTES: list[tuple[str, re.Pattern, Callable]] = []


@contextmanager
def hub(repositories: dict[str, dict[str, dict[str, bytes]]] | None = None, users: dict[str, str] | None = None):
    """Serves repositories, such as `{"datasets/me/photos": {"main": {"README.md": b"…"}}}`, by revision.

    `users` are names by token, `{"hf_me": "me"}` where nothing else is said. Yields a `Hub`.
    """
    served = Hub(users or {"hf_me": "me"})
    for repository, revisions in (repositories or {}).items():
        for revision, files in revisions.items():
            served.put(repository, files, revision)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = served
    served.endpoint = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


class Hub:
    """What tests see of the server. A repository is named like its page: "me/model", "datasets/me/photos"."""

    def __init__(self, users: dict[str, str]):
        self.endpoint = ""
        self.users = users
        self.repositories: dict[str, Repository] = {}
        self.lock = RLock()
        self.requests: list[str] = []  # "METHOD path" in order, the path unquoted and without its query
        self._faults: list[Fault] = []

    def put(self, repository: str, files: dict[str, bytes], revision: str = "main", private: bool | None = None) -> str:
        """Commits exactly these files, whatever their names, behind the clients' backs; returns the commit's sha.

        Makes the repository or the revision where there is none. `private=None` leaves a repository as it is.
        """
        with self.lock:
            stored = self.repositories.setdefault(repository, Repository())
            stored.private = stored.private if private is None else private
            table = {name: File(data, _is_large(name, len(data))) for name, data in files.items()}
            return stored.add(revision, table, stored.heads.get(revision), "Put").sha

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        with self.lock:
            return {name: file.data for name, file in self.repositories[repository].find(revision).files.items()}

    def commits(self, repository: str, revision: str = "main") -> list[str]:
        """The shas, newest first."""
        with self.lock:
            return [commit.sha for commit in self.repositories[repository].history(revision)]

    def drop(self, at: int = 1, when: str = "before", times: int | None = 1, pattern: str = ""):
        """Closes the connection at the `at`-th request from now, `times` times in a row or, with None, for ever.

        "before": nothing was processed. "after": it was, and the answer is lost. "during": half of the body has come;
        nothing was processed. A GET has no body: there half of the answer comes; a HEAD is dropped "before".
        Only requests whose "METHOD path" contains the regular expression count: it is the way to name one of several
        files, which clients send and fetch at the same time and in any order.

        What huggingface_hub 2.4 heals by itself: it repeats preupload, the LFS batch, PUT and verification, trees and
        lists of commits after 1, 2, 4, 8 and 8 seconds, be it a broken connection, 408, 429 or 5xx. The GET of a file
        it resumes five times after a second each if the connection broke, and repeats at 408 and 429, not at 5xx. The
        HEAD of a file that is not in its cache it repeats at a bad status, but not if the connection broke. All else
        raises at once: creating and deleting, branches, info, paths-info, refs, whoami, validate-yaml, commits.
        Version 0.34 repeats only the PUT, and a file's HEAD and GET at 429.
        """
        self._faults.append(Fault(pattern, at, times, when=when))

    def fail(self, pattern: str, status: int, times: int | None = 1, at: int = 1, headers: dict | None = None):
        """Answers requests with this status and processes nothing; what the client repeats is told at `drop`."""
        if headers is None:
            headers = {"Retry-After": "0"} if status == 429 else {}
        answer = Refused(status, "Failing, as told", headers=headers).answer
        if status >= 500:  # the real Hub's gateway answers so: no client may count on JSON
            answer = Answer(status, b"<html>Failing, as told</html>", {"Content-Type": "text/html", **headers})
        self._faults.append(Fault(pattern, at, times, answer=answer))

    def delay(self, pattern: str, seconds: float, times: int | None = 1, at: int = 1):
        """Lets requests wait before they are processed; the client waits 10 s for a file and for ever for all else."""
        self._faults.append(Fault(pattern, at, times, seconds=seconds))

    def heal(self):
        """Forgets all faults."""
        self._faults = []

    def environment(self, token: str | None = None) -> dict[str, str]:
        """What a new process needs in its environment to know no other Hub than this one."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": token or "",
            "HF_HUB_OFFLINE": "0",
            # With hf_xet installed, the client at 2.4 uploads large files with xet whatever the server says, and
            # `upload_folder` takes another road, of many commits; only this stops it. Older ones asked the info's
            # "xetEnabled" or the LFS batch's "transfer". All download with xet only where "X-Xet-Hash" comes.
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",  # it would add requests, from a thread of its own
            "NO_PROXY": "127.0.0.1",
        }

    @contextmanager
    def online(self, token: str | None = None, cache: Any = None):
        """The same for this process while it lasts; `cache` is the folder for downloads.

        huggingface_hub read the environment when it was imported, so its constants change too, wherever they were
        copied to. `datasets` has more copies: give it a process of its own.
        """
        from huggingface_hub import constants, hf_api
        from huggingface_hub.utils import _http

        changes = {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_DISABLE_TELEMETRY": True}
        changes |= {"ENDPOINT": self.endpoint, "HF_HUB_CACHE": str(cache or constants.HF_HUB_CACHE)}
        changes["HUGGINGFACE_CO_URL_TEMPLATE"] = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "huggingface_hub"]
        with ExitStack() as stack:
            # Before 1.0 it is its sessions, which it keeps, that are offline or not.
            forget = getattr(_http, "close_session", None) or _http.reset_sessions
            stack.callback(forget)
            stack.enter_context(patch.dict(os.environ, self.environment(token)))
            stack.enter_context(patch.object(hf_api.api, "endpoint", self.endpoint))  # its methods are the functions
            for module in modules:
                if known := {name: value for name, value in changes.items() if name in vars(module)}:
                    stack.enter_context(patch.multiple(module, **known))
            forget()
            yield

    def arrive(self, line: str) -> "list[Fault]":
        """Takes down a request and returns the faults that strike it."""
        with self.lock:
            self.requests.append(line)
            return [fault for fault in self._faults if fault.strikes(line)]


@dataclass
class Fault:
    pattern: str
    at: int  # counts the matching requests down
    times: int | None
    when: str = ""
    answer: "Answer | None" = None
    seconds: float = 0

    def strikes(self, line: str) -> bool:
        if not re.search(self.pattern, line):
            return False
        self.at -= 1
        return -(self.times or math.inf) < self.at <= 0


class File(NamedTuple):
    data: bytes
    large: bool

    @property
    def etag(self) -> str:
        """What clients compare: the sha256 of a large file, the git blob's sha1 of any other."""
        return hashlib.sha256(self.data).hexdigest() if self.large else self.blob

    @property
    def blob(self) -> str:
        content = hashlib.sha256(self.data).hexdigest().encode() if self.large else self.data  # a pointer, if large
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def entry(self, path: str) -> dict:
        """As a tree names it (oid) and as an info does (blobId, sha256), in one."""
        size, large = len(self.data), {}
        if self.large:
            large = {"lfs": {"oid": self.etag, "sha256": self.etag, "size": size, "pointerSize": 134}}
        return {"type": "file", "path": path, "size": size, "oid": self.blob, "blobId": self.blob, **large}


class Commit(NamedTuple):
    sha: str
    parent: str | None
    files: dict[str, File]
    title: str
    message: str
    author: str
    date: str


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    announced: dict[str, int] = field(default_factory=dict)  # sizes of the large files that an LFS batch let come
    uploaded: dict[str, bytes] = field(default_factory=dict)  # large files by sha256, committed or not

    def find(self, revision: str) -> Commit:
        sha = self.heads.get(revision, revision)
        if sha not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def history(self, revision: str) -> list[Commit]:
        commits = [self.find(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def add(self, revision: str, files: dict[str, File], parent: str | None, title: str, message="", author="system"):
        sha = secrets.token_hex(20)  # never the same twice: a cache that outlives this server must not know it
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.commits[sha] = Commit(sha, parent, files, title, message, author, date)
        self.heads[revision] = sha
        return self.commits[sha]


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None):
        super().__init__(message)
        known = {"X-Error-Message": json.dumps(message)[1:-1], **({"X-Error-Code": code} if code else {})}
        self.answer = _json({"error": message}, status, {**known, **(headers or {})})


def _json(value: Any, status: int = 200, headers: dict | None = None) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


LICENSES = {
    *("apache-2.0", "mit", "bsd-3-clause", "gpl-3.0", "openrail", "other", "unknown"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
}
SDKS = ("gradio", "docker", "static")
COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
SPACE_CARD = """---
title: {name}
emoji: 👀
colorFrom: gray
colorTo: green
sdk: {sdk}
sdk_version: 1.2.3
app_file: app.py
pinned: false
---

Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference
"""
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def _metadata_errors(content: str, kind: str) -> Iterator[str]:
    """What the real Hub would find wrong with the metadata of a model's or a Space's card, as far as its documentation
    tells."""
    header = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", content, re.DOTALL)
    try:
        data = yaml.safe_load(header[1]) if header else {}
    except yaml.YAMLError as error:
        yield f"Not YAML: {error}"
        return
    if not isinstance(data, dict):
        yield "Not a mapping"
        return
    if "license" in data and data["license"] not in LICENSES:
        yield f'"license" must be one of {sorted(LICENSES)}'
    if kind == "space":
        if data.get("sdk") not in SDKS:
            yield f'"sdk" must be one of {SDKS}'
        if not {data.get("colorFrom", "red"), data.get("colorTo", "red")} <= COLORS:
            yield f'"colorFrom" and "colorTo" must be of {sorted(COLORS)}'
        if not all(isinstance(data.get(name, ""), str) for name in ("title", "sdk_version", "python_version")):
            yield '"title", "sdk_version" and "python_version" must be strings'
    for name in ("library_name", "pipeline_tag"):
        if not isinstance(data.get(name, ""), str):
            yield f'"{name}" must be a string'
    for name in ("tags", "datasets", "models"):
        if not all(isinstance(value, str) and value for value in data.get(name, [])):
            yield f'"{name}" must be a list of strings'
    if not all(_ID.fullmatch(value) for value in [*data.get("datasets", []), data.get("base_model", "me/model")]):
        yield '"datasets" and "base_model" must be names on the Hub'
    for model in data.get("model-index", []):
        for result in model.get("results", []):
            parts = [model.get("name"), result.get("task", {}).get("type")]
            parts += [result.get("dataset", {}).get(name) for name in ("type", "name")]
            parts += [metric.get("type") for metric in result.get("metrics", [{}])]
            if not all(isinstance(part, str) and part for part in parts):
                yield '"model-index" needs a name, and each result a task, a dataset\'s type and name, and metrics'
            if not all(isinstance(metric.get("value"), (int, float)) for metric in result.get("metrics", [])):
                yield '"model-index": the value of a metric must be a number'


def _name(key: str) -> str:
    """A repository's name without its kind."""
    return key.removeprefix("datasets/").removeprefix("spaces/")


def _is_large(name: str, size: int) -> bool:
    return name.endswith(LARGE) or size >= LARGE_SIZE


def _folders(names, prefix: str = "") -> list[dict]:
    found = {name.rsplit("/", depth)[0] for name in names for depth in range(1, name[len(prefix) :].count("/") + 1)}
    return [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(found)]


def route(method: str, pattern: str):
    """Registers a function for requests; the pattern's groups are its arguments, kind and name in one."""

    def register(function: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


class Exchange:
    """One request and its answer. The hub is locked meanwhile, so that what an answer changes, it changes at once."""

    def __init__(self, hub: Hub, method: str, url: str, headers, body: bytes):
        parts = urlsplit(url)
        self.hub, self.method, self.path, self.headers, self.body = hub, method, parts.path, headers, body
        self.query = {name: values[-1].lower() for name, values in parse_qs(parts.query).items()}
        self.user: str | None = None

    def answer(self) -> Answer:
        try:
            self.user = self._who()
            value = self._routed()
        except Refused as refused:
            return refused.answer
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return _json({"error": f"Malformed: {error!r}"}, 400)
        return value if isinstance(value, Answer) else _json(value)

    def _routed(self) -> Any:
        for method, pattern, function in ROUTES:
            if method == self.method.replace("HEAD", "GET") and (match := pattern.fullmatch(self.path)):
                found = {name: unquote(value) for name, value in match.groupdict().items() if value}
                if name := found.pop("name", None):
                    kind = found.pop("kind", "models")
                    found["key"] = name if kind == "models" else f"{kind}/{name}"
                return function(self, **found)
        raise Refused(404, f"Not spoken here: {self.method} {self.path}")

    # Who may do what

    def _who(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def _known(self) -> str:
        if self.user is None:
            raise Refused(401, "Invalid username or password.")
        return self.user

    def _owned(self, key: str):
        if self._known() != key.split("/")[-2]:
            raise Refused(403, f"You don't have the rights to write to {key}")

    def _readable(self, key: str) -> Repository:
        repository = self.hub.repositories.get(key)
        if repository is None or (repository.private and self.user != key.split("/")[-2]):
            raise self._missing()
        return repository

    def _missing(self) -> Refused:
        # Nobody learns which private repositories there are. Of a 401 without the code clients think the same, but
        # only over https.
        status, message = (401, "Invalid username or password.") if self.user is None else (404, "Repository not found")
        return Refused(status, message, "RepoNotFound")

    def _writable(self, key: str) -> Repository:
        """The repository, which anybody known may propose changes to and its owner may change."""
        repository = self._readable(key)
        if self.user is None:
            raise self._missing()
        if not self._proposes:
            self._owned(key)
        return repository

    @property
    def _proposes(self) -> bool:
        return self.query.get("create_pr") in ("1", "true")

    # Repositories

    @route("GET", "/api/whoami-v2")
    def whoami(self):
        role = {"accessToken": {"displayName": "test", "role": "write"}}
        return {"type": "user", "name": self._known(), "fullname": self.user, "orgs": [], "auth": role}

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self):
        wanted = json.loads(self.body)
        kind = wanted.get("repoType", "model")
        found = list(_metadata_errors(wanted["content"], kind)) if kind in ("model", "space") else []
        errors = [{"message": message} for message in found]
        return _json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _named(self) -> tuple[str, dict]:
        wanted = json.loads(self.body)
        kinds = {None: "", "model": "", "dataset": "datasets/", "space": "spaces/"}
        return f"{kinds[wanted.get('type')]}{wanted.get('organization') or self._known()}/{wanted['name']}", wanted

    @route("POST", "/api/repos/create")
    def create(self):
        key, wanted = self._named()
        self._owned(key)
        made = {"url": f"{self.hub.endpoint}/{key}", "name": _name(key)}
        if key in self.hub.repositories:
            return _json({"error": "You already created this repository", **made}, 409)
        private = wanted.get("private") is True or wanted.get("visibility") == "private"
        # Nor are the real Hub's new repositories empty.
        files = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        if wanted.get("type") == "space":
            if wanted.get("sdk") not in SDKS:
                raise Refused(400, f"sdk must be one of {SDKS}")
            files["README.md"] = SPACE_CARD.format(**wanted).encode()
        self.hub.put(key, files, private=private)
        return made

    @route("DELETE", "/api/repos/delete")
    def delete(self):
        key, _ = self._named()
        self._readable(key)
        self._owned(key)
        del self.hub.repositories[key]
        return {}

    @route("GET", API)
    @route("GET", API + "/revision" + REVISION)
    def info(self, key, revision="main"):
        repository = self._readable(key)
        commit = repository.find(revision)
        name = _name(key)
        siblings = [{"rfilename": path} for path in commit.files]
        if "blobs" in self.query:
            siblings = [{"rfilename": path, **file.entry(path)} for path, file in commit.files.items()]
        about = {"id": name, "modelId": name, "author": name.split("/")[0], "sha": commit.sha, "siblings": siblings}
        about |= {"lastModified": commit.date, "createdAt": repository.history(revision)[-1].date, "tags": []}
        return about | {"private": repository.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0}

    @route("GET", API + "/tree" + REVISION + "(?:/(?P<folder>.+))?")
    def tree(self, key, revision, folder=""):
        files = self._readable(key).find(revision).files
        prefix = f"{folder}/" if folder else ""
        inside = [name for name in files if name.startswith(prefix)]
        if folder and not inside:
            raise Refused(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        entries = _folders(inside, prefix) + [files[name].entry(name) for name in inside]
        if self.query.get("recursive") in ("1", "true"):
            return entries
        return [entry for entry in entries if "/" not in entry["path"][len(prefix) :]]

    @route("POST", API + "/paths-info" + REVISION)
    def paths_info(self, key, revision):
        files = self._readable(key).find(revision).files
        paths = parse_qs(self.body.decode()).get("paths", [])
        folders = [folder for folder in _folders(files) if folder["path"] in paths]
        return folders + [files[path].entry(path) for path in paths if path in files]

    @route("GET", API + "/refs")
    def refs(self, key):
        found = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
        for name, sha in self._readable(key).heads.items():
            if name.startswith("refs/pr/"):
                found["pullRequests"].append({"name": name, "ref": name, "targetCommit": sha})
            else:
                found["branches"].append({"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha})
        return found

    @route("GET", API + "/commits" + REVISION)
    def commits(self, key, revision):
        return [
            {"id": commit.sha, "title": commit.title, "message": commit.message, "date": commit.date}
            | {"authors": [{"user": commit.author}]}
            for commit in self._readable(key).history(revision)
        ]

    @route("POST", API + "/branch" + REVISION)
    def branch(self, key, revision):
        repository = self._writable(key)
        if revision in repository.heads:
            raise Refused(409, f"Reference already exists: {revision}")
        if revision.startswith("refs/"):
            raise Refused(400, f"Invalid branch name: {revision}")
        repository.heads[revision] = repository.find(json.loads(self.body).get("startingPoint", "main")).sha
        return {}

    @route("GET", WEB + "/resolve" + REVISION + "/(?P<path>.+)")
    def resolve(self, key, revision, path):
        commit = self._readable(key).find(revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            raise Refused(404, "Entry not found", "EntryNotFound", headers)
        file = commit.files[path]
        headers |= {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if file.large:
            headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked or not any(asked.groups()):
            return Answer(200, file.data, headers)
        return self._part(file.data, *asked.groups(), headers)

    def _part(self, data: bytes, first: str, last: str, headers: dict) -> Answer:
        size = len(data)
        start = int(first) if first else max(size - int(last), 0)
        stop = min(int(last) + 1, size) if first and last else size
        if start >= stop:
            return Answer(416, b"", headers | {"Content-Range": f"bytes */{size}"})
        return Answer(206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"})

    # Commits

    @route("POST", API + "/preupload" + REVISION)
    def preupload(self, key, revision):
        files = self._writable(key).find(revision).files
        answers = []
        for file in json.loads(self.body)["files"]:
            path, mode = file["path"], "lfs" if _is_large(file["path"], file["size"]) else "regular"
            oid = {"oid": files[path].etag} if path in files else {}  # clients leave out what has not changed
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **oid})
        return {"files": answers}

    @route("POST", WEB + r"\.git/info/lfs/objects/batch")
    def batch(self, key):
        wanted = json.loads(self.body)
        # For a proposal clients name no revision, as it has none yet.
        repository = self._writable(key) if "ref" in wanted else self._readable(key)
        self._known()
        answers = []
        for large in wanted["objects"]:
            answers.append({"oid": large["oid"], "size": large["size"]})
            if large["oid"] not in repository.uploaded:
                repository.announced[large["oid"]] = large["size"]
                url = f"{self.hub.endpoint}/lfs/{key}/{large['oid']}"
                answers[-1]["actions"] = {"upload": {"href": url}, "verify": {"href": f"{url}/verify"}}
        return {"transfer": "basic", "objects": answers}

    @route("PUT", "/lfs" + WEB + "/(?P<oid>[0-9a-f]{64})")
    def upload(self, key, oid):
        # Like a signed URL, it comes without a token.
        repository = self.hub.repositories[key]
        if repository.announced[oid] != len(self.body) or hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "The size or the sha256 is not the announced one")
        repository.uploaded[oid] = self.body
        return Answer(200, b"", {})

    @route("POST", "/lfs" + WEB + "/(?P<oid>[0-9a-f]{64})/verify")
    def verify(self, key, oid):
        self._known()
        if len(self._readable(key).uploaded.get(oid, b"")) != json.loads(self.body)["size"]:
            raise Refused(404, "The object is not there, or is of another size")
        return {}

    @route("POST", API + "/commit" + REVISION)
    def commit(self, key, revision):
        repository = self._writable(key)
        if revision not in repository.heads:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        if header["key"] != "header":
            raise Refused(400, "The header comes first")
        parent = repository.find(revision)
        if expected := header["value"].get("parentCommit"):
            if self._proposes:
                parent = repository.find(expected)
            elif not parent.sha.startswith(expected):
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for operation in operations:
            self._apply(repository, files, operation["key"], operation["value"])
        extra = {}
        if self._proposes:
            number = 1 + sum(name.startswith("refs/pr/") for name in repository.heads)
            revision = f"refs/pr/{number}"
            extra = {"pullRequestUrl": f"{self.hub.endpoint}/{key}/discussions/{number}"}
        title, message = header["value"]["summary"], header["value"].get("description", "")
        sha = repository.add(revision, files, parent.sha, title, message, self._known()).sha
        return {"success": True, "commitUrl": f"{self.hub.endpoint}/{key}/commit/{sha}", "commitOid": sha, **extra}

    def _apply(self, repository: Repository, files: dict[str, File], key: str, value: dict):
        path = value["path"].removesuffix("/")
        if {"", ".", ".."}.intersection(path.split("/")):
            raise Refused(400, f"Invalid path: {path}")
        if key == "file":
            files[path] = File(base64.b64decode(value["content"], validate=True), large=False)
        elif key == "lfsFile":
            data = repository.uploaded.get(value["oid"])
            if data is None or value.get("size", len(data)) != len(data):
                raise Refused(400, f"The LFS object of {path} was not uploaded")
            files[path] = File(data, large=True)
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if name.startswith(f"{path}/")] if key == "deletedFolder" else [path]
            if not files.keys() & gone:
                raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise Refused(400, f"Unknown operation: {key}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer's head and body are two packets, and the second would wait

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        faults = self.server.hub.arrive(f"{self.command} {unquote(urlsplit(self.path).path)}")
        time.sleep(sum(fault.seconds for fault in faults))
        when = next((fault.when for fault in faults if fault.when), "")
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size // 2 if when == "during" else size)
        if when == "before" or len(body) < size or (when == "during" and self.command != "GET"):
            self.close_connection = True  # or the client has done so, half way through its body
            return
        answer = next((fault.answer for fault in faults if fault.answer), None)
        if answer is None:
            with self.server.hub.lock:
                answer = Exchange(self.server.hub, self.command, self.path, self.headers, body).answer()
        if when == "after":
            self.close_connection = True
        else:
            self._send(answer, cut=when == "during")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _send(self, answer: Answer, cut: bool):
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)
        self.close_connection = self.close_connection or cut


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # clients download with many connections at once

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.connections = []

    def process_request(self, request, client_address):
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that hangs up is nobody's error
            super().handle_error(request, client_address)

    def server_close(self):
        super().server_close()
        for connection in self.connections:  # clients keep them: the next server may have the same port
            with suppress(OSError):
                connection.shutdown(2)
