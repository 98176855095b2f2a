"""A hub on loopback: enough of its HTTP API for the real client, and faults on request.

A repository is a commit with files. Large files are kept apart, as the hub does: `resolve`
redirects to another host, which serves ranges and must never see the user's token.
"""

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from hashlib import sha1, sha256

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

LARGE = (".safetensors", ".bin", ".gguf")
CHUNK = 1 << 14


@dataclass
class Repository:
    files: dict[str, bytes]
    revisions: set[str] = field(default_factory=lambda: {"main"})
    is_gated: bool = False

    @property
    def commit(self) -> str:
        names = json.dumps(sorted((n, sha256(c).hexdigest()) for n, c in self.files.items()))
        return sha1(names.encode()).hexdigest()


@dataclass
class FakeHub:
    url: str = ""
    token: str = "good"
    stranger: str = "stranger"
    """A token of somebody who may not read gated models."""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Range header."""
    cuts: dict[str, int] = field(default_factory=dict)
    """After so many bytes the connection breaks, once per file name."""
    corrupt: set[str] = field(default_factory=set)
    """Files whose first byte arrives wrong."""
    truncated: set[str] = field(default_factory=set)
    """Files whose data lacks its last byte, wherever one reads."""
    is_down: bool = False

    def fetched(self) -> set[str]:
        """Names of all files that were asked for with GET."""
        resolved = [path for method, path, _ in self.requests if method == "GET"]
        return {path.split("/", 5)[5] for path in resolved if "/resolve/" in path} | {
            path.removeprefix("/large/").split("/", 2)[2]
            for path in resolved
            if path.startswith("/large/")
        }

    def ranges(self, name: str) -> list[str]:
        return [r for method, path, r in self.requests if method == "GET" and name in path and r]

    def _find(self, request: Request) -> Repository | Response:
        if self.is_down:
            return Response(status_code=503)
        self.requests.append((request.method, request.url.path, request.headers.get("range")))
        parts = request.path_params
        repository = self.repositories.get(f"{parts['owner']}/{parts['name']}")
        authorization = request.headers.get("authorization")
        if authorization not in (None, f"Bearer {self.token}", f"Bearer {self.stranger}"):
            message = "Invalid credentials in Authorization header"
            return Response(status_code=401, headers={"X-Error-Message": message})
        if repository is None:
            return _error(401 if authorization is None else 404, "RepoNotFound")
        if parts.get("revision", repository.commit) not in {
            *repository.revisions,
            repository.commit,
        }:
            return _error(404, "RevisionNotFound")
        return repository

    async def info(self, request: Request) -> Response:
        repository = self._find(request)
        if isinstance(repository, Response):
            return repository
        siblings = [
            {"rfilename": name, "size": len(content)}
            | ({"lfs": _lfs(content)} if name.endswith(LARGE) else {})
            for name, content in repository.files.items()
        ]
        name = f"{request.path_params['owner']}/{request.path_params['name']}"
        body = {"id": name, "sha": repository.commit, "siblings": siblings}
        return JSONResponse(body | {"private": False, "downloads": 0, "tags": []})

    async def tree(self, request: Request) -> Response:
        repository = self._find(request)
        if isinstance(repository, Response):
            return repository
        return JSONResponse(
            [
                {"type": "file", "path": name, "size": len(content), "oid": _git_oid(content)}
                | (
                    {"lfs": _lfs(content) | {"oid": _lfs(content)["sha256"]}}
                    if name.endswith(LARGE)
                    else {}
                )
                for name, content in repository.files.items()
            ]
        )

    async def resolve(self, request: Request) -> Response:
        repository = self._find(request)
        if isinstance(repository, Response):
            return repository
        authorization = request.headers.get("authorization")
        if repository.is_gated and authorization != f"Bearer {self.token}":
            return _error(403 if authorization else 401, "GatedRepo")
        name = request.path_params["file"]
        if name not in repository.files:
            return _error(404, "EntryNotFound")
        content = repository.files[name]
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{_git_oid(content)}"'}
        if not name.endswith(LARGE):
            return Response(content, headers=headers)
        headers |= {
            "X-Linked-Size": str(len(content)),
            "X-Linked-Etag": f'"{sha256(content).hexdigest()}"',
        }
        parts = request.path_params
        location = f"/large/{parts['owner']}/{parts['name']}/{name}"
        host = self.url.replace("127.0.0.1", "localhost")
        return RedirectResponse(host + location, 302, headers=headers)

    async def large(self, request: Request) -> Response:
        repository = self._find(request)
        if isinstance(repository, Response):
            return repository
        assert "authorization" not in request.headers
        name = request.path_params["file"]
        content = repository.files[name]
        total = len(content)
        if name in self.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        if name in self.truncated:
            content = content[:-1]
        start = int(request.headers.get("range", "bytes=0-").split("=")[1].split("-")[0])
        body = content[start:]
        headers = {"Content-Length": str(len(body))}
        if "range" in request.headers:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        status = 206 if "range" in request.headers else 200
        cut = self.cuts.pop(name, len(body))
        return StreamingResponse(_chunks(body[:cut], cut < len(body)), status, headers)

    def app(self) -> Starlette:
        repository = "/{owner}/{name}"
        return Starlette(
            routes=[
                Route(f"/api/models{repository}", self.info),
                Route(f"/api/models{repository}/revision/{{revision:path}}", self.info),
                Route(f"/api/models{repository}/tree/{{revision}}", self.tree),
                Route(f"{repository}/resolve/{{revision}}/{{file:path}}", self.resolve),
                Route(f"/large{repository}/{{file:path}}", self.large),
            ]
        )


async def _chunks(body: bytes, breaks: bool) -> AsyncIterator[bytes]:
    for start in range(0, len(body), CHUNK):
        yield body[start : start + CHUNK]
    if breaks:
        raise ConnectionResetError


def _error(status: int, code: str) -> Response:
    return Response(status_code=status, headers={"X-Error-Code": code, "X-Error-Message": code})


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _lfs(content: bytes) -> dict[str, object]:
    return {"sha256": sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}


@contextlib.contextmanager
def running_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    listener = socket.create_server(("127.0.0.1", 0))
    hub.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(hub.app(), log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
