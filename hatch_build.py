"""The addresses of the repository in a package's metadata, taken from the clone that it is built in.

PyPI shows the README by itself, where relative links and pictures lead nowhere. In a clone whose `origin` is on a web
host they become absolute, at the commit that is built, and the project's pages are listed. Elsewhere the README stays
as it is; a source distribution keeps what the clone had.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

REMOTE = re.compile(
    r"(?:https://(?:[^@/]+@)?|ssh://git@|git@)(?P<host>[\w.-]+\.\w+)[:/](?!\d+/)(?P<path>[\w.~/-]+?)(?:\.git)?/?"
)
RELATIVE_LINK = re.compile(r"(!?)(\[[^\]]*\])\((?!https?://|#|mailto:)([^)\s]+)\)")
PAGES = {
    "Documentation": "blob/{commit}/docs/index.md",
    "Source": "tree/{commit}",
    "Changelog": "blob/{commit}/CHANGELOG.md",
    "Issues": "issues",
}


class Addresses(MetadataHookInterface):
    """Sets the dynamic fields `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the fields. Called by hatchling."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["urls"] = dict(self.config["urls"])
        if address := address_of(self.git("remote", "get-url", "origin")):
            commit = self.git("rev-parse", "HEAD")
            metadata["urls"] |= {"Homepage": address}
            metadata["urls"] |= {name: f"{address}/{page.format(commit=commit)}" for name, page in PAGES.items()}
            text = with_absolute_links(text, address, commit)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}

    def git(self, *words: str) -> str:
        """Return what git answers, or nothing where there is no git or this folder is no clone, as within another."""
        here = {**os.environ, "GIT_CEILING_DIRECTORIES": str(Path(self.root).resolve().parent)}
        try:
            run = subprocess.run(
                ["git", "-C", self.root, *words], capture_output=True, text=True, check=False, env=here
            )
        except OSError:
            return ""
        return run.stdout.strip()


def address_of(remote: str) -> str:
    """Return the web address of a remote, or nothing for a folder, a host without a name or a port."""
    match = REMOTE.fullmatch(remote)
    return f"https://{match['host']}/{match['path']}" if match else ""


def with_absolute_links(text: str, address: str, commit: str) -> str:
    """Return Markdown whose relative links lead to the files of a commit: pictures as files, the rest as pages."""
    return RELATIVE_LINK.sub(
        lambda link: f"{link[1]}{link[2]}({address}/{'raw' if link[1] else 'blob'}/{commit}/{link[3]})", text
    )
