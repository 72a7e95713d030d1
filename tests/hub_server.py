"""A small Hugging Face Hub for tests: what huggingface_hub asks of the real one, on a free port of this machine.

Files of 1 KiB or more are "large" and come by a redirect to another host name, as the Hub's do, which offers them by
its own protocol Xet as well; the others come directly.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 1024
TOKEN = "hf_right"


@dataclass
class Repository:
    """Commits, oldest first, and the names of some."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], *names: str) -> str:
        """Add a commit, to which these branches or tags then point; main always does."""
        sha = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[sha] = files
        self.names |= dict.fromkeys(("main", *names), sha)
        return sha


@dataclass
class HubServer:
    """The repositories by the path of their pages: `org/name`, `datasets/org/name`."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Method and path of every request."""
    broken: dict[str, int] = field(default_factory=dict)
    """After so many bytes of a file the connection ends, and then the file is not to be had."""
    flipped: set[str] = field(default_factory=set)
    """Files whose first byte is not what it should be."""
    tokens_at_the_cdn: list[str | None] = field(default_factory=list)
    url: str = ""

    def repository(self, name: str, files: dict[str, bytes], *names: str, **access: bool) -> str:
        """Add a repository of one commit; returns the commit."""
        self.repositories[name] = Repository(**access)
        return self.repositories[name].commit(files, *names)


@contextmanager
def serving() -> Iterator[HubServer]:
    """Run a server until the end of the block."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(f"{self.command} {path}")
        if path.startswith("cdn/"):
            self._from_cdn(path)
        elif path.startswith("api/"):
            self._api(path.removeprefix("api/").removeprefix("models/"))
        else:
            self._resolve(path)

    def _api(self, path: str) -> None:
        for verb in ("revision", "tree"):
            name, _, rest = path.partition(f"/{verb}/")
            if rest:
                break
        found = self._allowed(name, rest or "main")
        if found is None:
            return
        sha, files = found
        tree = [_entry(one, content) for one, content in files.items()]
        about = {"id": name, "sha": sha, "siblings": [{"rfilename": one} for one in files]}
        self._json(tree if verb == "tree" else about)

    def _resolve(self, path: str) -> None:
        name, _, rest = path.partition("/resolve/")
        known = [*self.hub.repositories.get(name, Repository()).names, rest.partition("/")[0]]
        revision = next(one for one in known if rest.startswith(f"{one}/"))
        found = self._allowed(name, revision, file=True)
        if found is None:
            return
        sha, files = found
        file = rest.removeprefix(f"{revision}/")
        content, headers = files.get(file), {"X-Repo-Commit": sha}
        if content is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
        elif len(content) < LARGE:
            self._send(200, content, headers | {"ETag": f'"{_blob_id(content)}"'})
        else:
            digest = hashlib.sha256(content).hexdigest()
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            headers |= {"X-Xet-Hash": digest, "X-Xet-Refresh-Route": f"{self.hub.url}/api/xet-token"}
            elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
            self._send(302, b"", headers | {"Location": f"{elsewhere}/cdn/{name}/{sha}/{file}"})

    def _from_cdn(self, path: str) -> None:
        self.hub.tokens_at_the_cdn.append(self.headers.get("Authorization"))
        name = next(one for one in self.hub.repositories if path.startswith(f"cdn/{one}/"))
        sha, _, file = path.removeprefix(f"cdn/{name}/").partition("/")
        content = self.hub.repositories[name].commits[sha][file]
        if file in self.hub.flipped:
            content = bytes([content[0] ^ 1]) + content[1:]
        cut = self.hub.broken.get(file)
        if cut == 0:
            self._refuse(503, "", "maintenance")
        else:
            self.hub.broken |= {file: 0} if cut else {}
            self._send(200, content, {}, cut)

    def _allowed(
        self, name: str, revision: str, *, file: bool = False
    ) -> tuple[str, dict[str, bytes]] | None:
        """The commit and its files; None where something else was answered."""
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and given is None):
            return self._refuse(404 if given else 401, "RepoNotFound", "Repository not found")
        if repository.gated and given is None and file:
            return self._refuse(401, "GatedRepo", "Access to this model is restricted")
        sha = repository.names.get(revision, revision)
        if sha not in repository.commits:
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        return sha, repository.commits[sha]

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}
    if len(content) >= LARGE:
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
    return entry


def _blob_id(content: bytes) -> str:
    """As git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
