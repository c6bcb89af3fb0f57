"""A local stub of the Hugging Face hub's HTTP API, as far as huggingface_hub needs it to push and load a model.

It keeps repositories in memory and answers like the hub: regular files in the commit, large files by Git LFS,
revisions, private repositories, error codes. `fail` and `before` inject faults.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_stub"
LARGE = (".safetensors", ".onnx", ".npy", ".pt2")
NAME = r"(?P<name>[^/]+/[^/]+)"


@dataclass
class Commit:
    sha: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    is_private: bool
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def add(self, message: str, files: dict[str, bytes]) -> Commit:
        sha = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits.append(Commit(sha, message, files))
        return self.commits[-1]

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag or a commit's id."""
        sha = self.commits[-1].sha if revision == "main" else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit.sha == sha), None)


class HubStub(ThreadingHTTPServer):
    """The server; a context manager that runs it in a thread."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reset()

    def handle_error(self, *_: object) -> None:
        """Ignore the broken connections of killed clients."""

    def reset(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.fail: dict[str, int] = {}
        """Text in `METHOD path` → HTTP status of the answer."""
        self.before: Callable[[str], object] = lambda request: None
        """Called with `METHOD path` before each answer."""
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> HubStub:
        threading.Thread(target=self.serve_forever, daemon=True, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class HubError(Exception):
    """An error of the hub: a status, its error code and message."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    server: HubStub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        self.body = self.read_body()
        self.server.requests.append(request)
        self.server.before(request)
        try:
            for text, status in self.server.fail.items():
                if text in request:
                    raise HubError(status, message="injected")
            for pattern, method in ROUTES:
                if match := re.fullmatch(pattern, request):
                    return getattr(self, method)(**match.groupdict())
            raise HubError(404, message=f"the stub has no {request}")
        except HubError as answer:
            headers = {"X-Error-Code": answer.code} if answer.code else {}
            self.send(answer.status, {"error": answer.message}, headers | {"X-Error-Message": answer.message})

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def require_token(self) -> None:
        given = self.headers.get("Authorization")
        if given is None:
            raise HubError(401, message="Invalid username or password.")
        if given != f"Bearer {TOKEN}":
            raise HubError(401, message="Invalid credentials in Authorization header")

    def repository(self, name: str) -> Repository:
        """A repository that the client may see; a private one does not exist for others."""
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            raise HubError(401, message="Invalid credentials in Authorization header")
        found = self.server.repositories.get(name)
        if found is None or (found.is_private and given is None):
            raise HubError(404 if given else 401, "RepoNotFound", "Repository not found")
        return found

    def commit(self, name: str, revision: str) -> Commit:
        commit = self.repository(name).find(revision)
        if commit is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def create(self) -> None:
        self.require_token()
        values = json.loads(self.body)
        name = f"{values['organization']}/{values['name']}"
        reply = {"url": f"{self.server.url}/{name}", "name": name}
        if name in self.server.repositories:
            return self.send(409, reply | {"error": "You already created this model repo"})
        self.server.repositories[name] = Repository(values.get("visibility") == "private")
        self.server.repositories[name].add("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self.send(200, reply)

    def validate_yaml(self) -> None:
        text = json.loads(self.body)["content"]
        head = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        try:
            is_valid = head is not None and isinstance(yaml.safe_load(head[1]), dict)
        except yaml.YAMLError:
            is_valid = False
        errors = [] if is_valid else [{"message": "malformed YAML"}]
        self.send(200 if is_valid else 400, {"errors": errors, "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        self.require_token()
        commit = self.commit(name, revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            oid = git_oid(path, commit.files[path]) if path in commit.files else None
            mode = "lfs" if path.endswith(LARGE) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send(200, {"files": answers})

    def lfs_batch(self, name: str) -> None:
        self.require_token()
        self.repository(name)
        objects = []
        for item in json.loads(self.body)["objects"]:
            links = {key: {"href": f"{self.server.url}/lfs/{item['oid']}"} for key in ("upload", "verify")}
            objects.append(item if item["oid"] in self.server.blobs else item | {"actions": links})
        self.send(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, message="SHA-256 differs")
        self.server.blobs[oid] = self.body
        self.send(200, b"")

    def lfs_verify(self, oid: str) -> None:
        self.require_token()
        if len(self.server.blobs.get(oid, b"")) != json.loads(self.body)["size"]:
            raise HubError(404, message="no such object")
        self.send(200, {})

    def lfs_get(self, oid: str) -> None:
        self.send(200, self.server.blobs[oid])

    def make_commit(self, name: str, revision: str) -> None:
        self.require_token()
        files, message = dict(self.commit(name, revision).files), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.server.blobs:
                    raise HubError(400, message="an LFS object is missing")
                files[value["path"]] = self.server.blobs[value["oid"]]
            else:
                assert item["key"] == "deletedFile", item
                del files[value["path"]]
        commit = self.repository(name).add(message, files)
        self.send(200, {"commitUrl": f"{self.server.url}/{name}/commit/{commit.sha}", "commitOid": commit.sha})

    def info(self, name: str, revision: str | None) -> None:
        commit = self.commit(name, revision or "main")
        siblings = [{"rfilename": path} for path in commit.files]
        private = self.repository(name).is_private
        self.send(200, {"_id": "0", "id": name, "sha": commit.sha, "private": private, "siblings": siblings})

    def tree(self, name: str, revision: str) -> None:
        entries = []
        for path, content in self.commit(name, revision).files.items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_oid(path, content)}
            if path.endswith(LARGE):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self.send(200, entries)

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit = self.commit(name, revision)
        content = commit.files.get(path)
        if content is None:
            raise HubError(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{git_oid(path, content)}"'}
        if path.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            # As on the hub, large files come from another host, so that the client does not follow in a HEAD request.
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            return self.send(
                302, b"", headers | {"Location": f"http://localhost:{self.server.server_port}/lfs/{digest}"}
            )
        return self.send(200, content, headers)


ROUTES = (
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "validate_yaml"),
    (rf"POST /api/models/{NAME}/preupload/(?P<revision>.+)", "preupload"),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", "lfs_batch"),
    (r"PUT /lfs/(?P<oid>\w+)", "lfs_put"),
    (r"POST /lfs/(?P<oid>\w+)", "lfs_verify"),
    (r"GET /lfs/(?P<oid>\w+)", "lfs_get"),
    (rf"POST /api/models/{NAME}/commit/(?P<revision>.+)", "make_commit"),
    (rf"GET /api/models/{NAME}(/revision/(?P<revision>.+))?", "info"),
    (rf"GET /api/models/{NAME}/tree/(?P<revision>[^/]+)", "tree"),
    (rf"(GET|HEAD) /{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)


def git_oid(path: str, content: bytes) -> str:
    """The id of a file in git; of a large file, that of its LFS pointer."""
    if path.endswith(LARGE):
        digest = hashlib.sha256(content).hexdigest()
        content = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
