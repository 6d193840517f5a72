"""A small stand-in for the Hugging Face Hub on loopback: what push and pull of a model ask of it.

The official client talks to it over HTTP, in a process whose ``HF_ENDPOINT`` is the stand-in's
address. Repositories have one branch, of whole snapshots; files that end in ``.safetensors`` go
through LFS, all others into the commit itself, as on the Hub. Writing needs the token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand_in"


class HubStandIn(ThreadingHTTPServer):
    """The server and what it stores.

    Attributes:
        commits: of every repository, oldest first: ``(sha, {path: content})``.
        private: names of the private repositories.
        requests: ``"METHOD /path"`` of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.blobs: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: Any) -> dict[str, str]:
        """Variables of a process whose Hub this is, with its own cache and a token."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",  # large files take the older way, LFS
        }

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a commit on top of the last one; returns its sha."""
        commits = self.commits.setdefault(repo, [])
        snapshot = {**(commits[-1][1] if commits else {}), **files}
        digest = hashlib.sha1(usedforsecurity=False)
        for path, content in sorted(snapshot.items()):
            digest.update(f"{len(commits)} {path} {len(content)}".encode() + content)
        commits.append((digest.hexdigest(), snapshot))
        return digest.hexdigest()

    def snapshot(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision: ``main`` or a sha."""
        commits = self.commits.get(repo) or []
        if revision == "main" and commits:
            return commits[-1]
        return next((commit for commit in commits if commit[0] == revision), None)


@contextmanager
def hub_stand_in() -> Iterator[HubStandIn]:
    """A running stand-in."""
    server = HubStandIn()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        size = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        body = b"".join(self._chunks()) if chunked else self.rfile.read(size)
        for method, pattern, handler in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                if self.command in ("POST", "PUT") and not self._may_write(path):
                    self._error(401, "InvalidToken", "Invalid username or password.")
                    return
                handler(self, body, **found.groupdict())
                return
        self._error(404, "EntryNotFound", "Not found")

    do_GET = do_HEAD = do_POST = do_PUT = _route

    def _may_write(self, path: str) -> bool:
        # An upload's address carries its own permission.
        return path.startswith("/lfs/") or self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, Content_Type="application/json")

    def _error(self, status: int, code: str, message: str) -> None:
        self._send(b"", status, X_Error_Code=code, X_Error_Message=message)

    # -- reading ------------------------------------------------------------------------------

    def _info(self, body: bytes, repo: str, revision: str = "main") -> None:
        found = self.server.snapshot(repo, revision)
        if found is None:
            kind = "Revision" if self.server.commits.get(repo) else "Repo"
            self._error(404, f"{kind}NotFound", f"{kind} not found")
            return
        sha, files = found
        siblings = [{"rfilename": path} for path in files]
        self._json({"id": repo, "sha": sha, "siblings": siblings, "private": False, "tags": []})

    def _tree(self, body: bytes, repo: str, revision: str) -> None:
        found = self.server.snapshot(repo, revision)
        files = found[1] if found else {}
        self._json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
                for path, content in files.items()
            ]
        )

    def _file(self, body: bytes, repo: str, revision: str, path: str) -> None:
        found = self.server.snapshot(repo, revision)
        if found is None:
            self._error(404, "RepoNotFound", "Repository not found")
        elif path not in found[1]:
            self._error(404, "EntryNotFound", "Entry not found")
        else:
            content = found[1][path]
            self._send(content, X_Repo_Commit=found[0], ETag=f'"{_oid(content)}"')

    # -- writing ------------------------------------------------------------------------------

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        if repo in self.server.commits:
            error = "You already created this model repo"
            self._json({"error": error, "url": f"{self.server.url}/{repo}"}, 409)
            return
        self.server.commit(repo, {})
        if asked.get("private") or asked.get("visibility") == "private":
            self.server.private.add(repo)
        self._json({"url": f"{self.server.url}/{repo}", "name": repo, "id": "1"})

    def _check_card(self, body: bytes) -> None:
        self._json({"errors": [], "warnings": []})

    def _upload_modes(self, body: bytes, repo: str, revision: str) -> None:
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
        self._json(
            {
                "files": [
                    {"path": path, "uploadMode": mode, "shouldIgnore": False}
                    for path, mode in modes.items()
                ]
            }
        )

    def _lfs_batch(self, body: bytes, repo: str) -> None:
        objects = json.loads(body)["objects"]
        answers = [
            {**one, "actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}}
            for one in objects
        ]
        self._json({"transfer": "basic", "objects": answers})

    def _lfs_upload(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._error(400, "BadRequest", "the content is not what its id says")
            return
        self.server.blobs[oid] = body
        self._send(b"")

    def _commit(self, body: bytes, repo: str, revision: str) -> None:
        files = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        sha = self.server.commit(repo, files)
        url = f"{self.server.url}/{repo}/commit/{sha}"
        self._json({"commitUrl": url, "commitOid": sha, "success": True})


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


_REPO, _REVISION = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
_READ = ("GET", "HEAD")
_ROUTES: list[tuple[tuple[str, ...], str, Any]] = [
    (("POST",), "/api/repos/create", _Handler._create),
    (("POST",), "/api/validate-yaml", _Handler._check_card),
    (("POST",), f"/api/models/{_REPO}/preupload/{_REVISION}", _Handler._upload_modes),
    (("POST",), f"/api/models/{_REPO}/commit/{_REVISION}", _Handler._commit),
    (("POST",), rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler._lfs_batch),
    (("PUT",), "/lfs/(?P<oid>[0-9a-f]{64})", _Handler._lfs_upload),
    (_READ, f"/api/models/{_REPO}/tree/{_REVISION}", _Handler._tree),
    (_READ, f"/api/models/{_REPO}/revision/{_REVISION}", _Handler._info),
    (_READ, f"/api/models/{_REPO}", _Handler._info),
    (_READ, f"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _Handler._file),
]
