"""A server on loopback that speaks as much of the Hub's API as unmodified clients need to read a repository."""

import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@contextmanager
def hub(repositories: dict[str, dict[str, Files]]):
    """Serves repositories, such as `{"datasets/me/photos": {"main": {"README.md": b"…"}}}`, by revision.

    Yields the endpoint and the list of requests, which grows.
    """
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            requests.append(f"{self.command} {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if match := re.fullmatch(r"/(datasets/[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._file(*match.groups())
            elif match := re.fullmatch(r"/api/(datasets/[^/]+/[^/]+)(?:/revision/([^/]+))?", path):
                self._info(*match.groups())
            elif match := re.fullmatch(r"/api/(datasets/[^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", path):
                self._tree(*match.groups())
            elif match := re.fullmatch(r"/api/(datasets/[^/]+/[^/]+)/paths-info/([^/]+)", path):
                self._paths(*match.groups(), json.loads(body)["paths"])
            else:
                self._answer(404, b"")

        do_HEAD = do_POST = do_GET

        def _revision(self, repository, revision) -> tuple[Files, str] | None:
            revisions = repositories.get(repository, {})
            for name, files in revisions.items():
                if revision in (name, _commit(files)):
                    return files, _commit(files)
            code = "RevisionNotFound" if revisions else "RepoNotFound"
            self._answer(404, b"", {"X-Error-Code": code})
            return None

        def _file(self, repository, revision, name):
            if (found := self._revision(repository, revision)) is None:
                return
            files, commit = found
            headers = {"X-Repo-Commit": commit}
            if name not in files:
                self._answer(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
                return
            data = files[name]
            headers |= {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
            if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start, stop = int(match[1]), int(match[2] or len(data) - 1) + 1
                part = {"Content-Range": f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"}
                self._answer(206, data[start:stop], headers | part)
            else:
                self._answer(200, data, headers)

        def _info(self, repository, revision):
            if (found := self._revision(repository, revision or "main")) is not None:
                files, commit = found
                siblings = [{"rfilename": name} for name in files]
                self._json({"id": repository.split("/", 1)[1], "sha": commit, "siblings": siblings, "tags": []})

        def _tree(self, repository, revision, folder):
            if (found := self._revision(repository, revision)) is not None:
                files, _ = found
                inside = [name for name in files if not folder or name.startswith(f"{folder}/")]
                self._json([_entry(name, files[name]) for name in inside] + _folders(inside))

        def _paths(self, repository, revision, paths):
            if (found := self._revision(repository, revision)) is not None:
                files, _ = found
                folders = [entry for entry in _folders(files) if entry["path"] in paths]
                self._json([_entry(name, files[name]) for name in paths if name in files] + folders)

        def _json(self, value):
            self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _answer(self, status, data, headers=None):
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


def _commit(files: Files) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def _entry(name: str, data: bytes) -> dict:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


def _folders(names) -> list[dict]:
    folders = {name.rsplit("/", depth)[0] for name in names for depth in range(1, name.count("/") + 1)}
    return [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
