"""A small Hub on loopback, for huggingface_hub, transformers and datasets as they are.

The fixture `hub` in conftest.py starts it. It speaks the part of the Hub's HTTP interface that
pushing and pulling use: repositories with commits, LFS, the check of a card's header, private and
public, tokens. It keeps every request, and can break connections in the middle of an upload.

The libraries read the Hub's address and HF_HUB_OFFLINE as they are imported, and the tests' own
process is offline: what talks to this server runs in a process of its own, with `environment()`.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub.repocard import RepoCard, model_index_to_eval_results

# The user ann's; tests look for it where no token may be.
HUB_TOKEN = "hf_CanaryThatMustStayUnseen0123456789"

# The Hub stores these through LFS, whatever their size; source: the .gitattributes of a new
# repository.
LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".pt", ".pth", ".tar.gz", ".zip")
LFS_SIZE = 10_000_000  # bytes; anything larger goes there too
# The Hub's identifiers of the licences that this project can have to do with.
LICENCES = {"apache-2.0", "mit", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc0-1.0", "other"}
BLOCK = 4096  # bytes read at a time


@dataclass(frozen=True)
class HubRequest:
    """One request as it arrived; `body` ends where the connection was broken."""

    method: str
    path: str  # with the query
    headers: dict[str, str]
    body: bytes

    def contents(self) -> Iterator[bytes]:
        """Yield the body, and the files that a commit holds in it in base64."""
        yield self.body
        for encoded in re.findall(rb'"(?:content|sample)": ?"([A-Za-z0-9+/]+=*)"', self.body):
            yield base64.b64decode(encoded)


@dataclass(frozen=True)
class Commit:
    """All files of a repository at one time."""

    sha: str  # 40 hexadecimal digits
    files: dict[str, bytes]
    message: str


@dataclass
class Repository:
    """A repository: each commit holds all its files."""

    kind: str  # model or dataset
    name: str  # USER/NAME
    is_private: bool
    commits: list["Commit"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.add({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")

    def add(self, files: dict[str, bytes], message: str) -> None:
        """Add a commit."""
        digest = hashlib.sha1(repr((self.kind, self.name, len(self.commits))).encode())
        for path in sorted(files):
            digest.update(path.encode() + files[path])
        self.commits.append(Commit(digest.hexdigest(), files, message))

    @property
    def files(self) -> dict[str, bytes]:
        """Return the newest commit's files."""
        return self.commits[-1].files

    def at(self, revision: str) -> "Commit | None":
        """Return a commit by its name or its branch, None where there is none."""
        named = {commit.sha: commit for commit in self.commits}
        return self.commits[-1] if revision in ("main", "HEAD") else named.get(revision)


@dataclass
class HubServer:
    """The server's address, what it holds, and what arrived there."""

    url: str = ""
    users: dict[str, str] = field(default_factory=dict)  # token to name
    readers: set[str] = field(default_factory=set)  # tokens that may not write
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS, by sha256
    received: list[HubRequest] = field(default_factory=list)
    is_broken: threading.Event = field(default_factory=threading.Event)
    bytes_until_break: int | None = None
    home: str = ""  # HF_HOME of the processes that talk to this server
    stop: Callable[[], None] = lambda: None

    def environment(self, token: str | None) -> dict[str, str]:
        """Return the environment of a process that takes this server for the Hub."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "SM_", "TRANSFORMERS_"))
        }
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_HOME": self.home,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            **({"HF_TOKEN": token} if token else {}),
        }

    def run(
        self, *command: str, token: str | None = None, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `python COMMAND...` as somebody whose Hub this is."""
        return subprocess.run(
            [sys.executable, *command],
            env=environment or self.environment(token),
            capture_output=True,
            text=True,
        )

    def model(self, name: str) -> Repository:
        """Return a model's repository."""
        return self.repositories["model", name]

    def dataset(self, name: str) -> Repository:
        """Return a dataset's repository."""
        return self.repositories["dataset", name]

    def create(
        self, kind: str, name: str, is_private: bool, files: dict[str, bytes] | None = None
    ) -> Repository:
        """Make a repository that is there already when a test begins."""
        self.repositories[kind, name] = repository = Repository(kind, name, is_private)
        if files:
            repository.add(repository.files | files, "earlier")
        return repository

    def break_uploads_after(self, num_bytes: int) -> None:
        """Break the connection after so many more bytes of LFS files, and every later one.

        `is_broken` is set when it happens; `mend` ends it.
        """
        self.bytes_until_break = num_bytes
        self.is_broken.clear()

    def mend(self) -> None:
        """Let uploads through again."""
        self.bytes_until_break = None
        self.is_broken.clear()

    def requests_with(self, text: str) -> list[HubRequest]:
        """Return the requests that hold a text outside of the header that is meant to hold it."""
        return [
            request
            for request in self.received
            if text in request.path
            or any(text in v for k, v in request.headers.items() if k != "authorization")
            or any(text.encode() in content for content in request.contents())
        ]

    def reset(self) -> None:
        """Forget everything."""
        for kept in (self.users, self.readers, self.repositories, self.objects, self.received):
            kept.clear()
        self.mend()


class Refusal(Exception):
    """An answer of the Hub that says no."""

    def __init__(self, status: HTTPStatus, message: str, code: str = "", **content: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.content = status, code, content


class BrokenOff(Exception):
    """The connection ends here."""


def card_errors(content: str, kind: str) -> list[str]:
    """Return what the Hub would refuse in a card's header.

    Source: the Hub's documentation of model cards and of model-index. huggingface_hub's own parser
    is asked first: it refuses what is not YAML, and a malformed model-index.
    """
    try:
        header = RepoCard(content).data.to_dict()
    except Exception as error:  # ValueError, or PyYAML's own
        return [str(error)]
    errors = []
    if (licence := header.get("license")) is not None and licence not in LICENCES:
        errors.append(f'"license" must be one of {sorted(LICENCES)}')
    for name in ("tags", "datasets", "metrics"):
        listed = header.get(name, [])
        if not isinstance(listed, list) or not all(isinstance(value, str) for value in listed):
            errors.append(f'"{name}" must be an array of strings')
    if kind == "model" and "model-index" in header:
        try:
            _, results = model_index_to_eval_results(header["model-index"])
        except (KeyError, TypeError, ValueError) as error:
            return [*errors, f'"model-index" is malformed: {error!r}']
        for result in results:
            if not isinstance(result.metric_value, int | float):
                errors.append('"model-index[0].results[0].metrics[0].value" must be a number')
            if not (result.task_type and result.dataset_type and result.dataset_name):
                errors.append('"model-index[0].results[0]" lacks a task or a dataset')
    return errors


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection. `hub` is set by start()."""

    protocol_version = "HTTP/1.1"
    hub: HubServer
    body = b""

    def log_message(self, *_: object) -> None:
        """Write no line a request."""

    def handle_any(self) -> None:
        """Read the request, keep it, answer it."""
        try:
            self.body = self.read_body()
        except BrokenOff:
            self.close_connection = True
            return
        self.keep_request(self.body)
        try:
            self.route()
        except Refusal as refusal:
            headers = {"X-Error-Message": str(refusal)}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            content = {"error": str(refusal), **refusal.content}
            self.answer(json.dumps(content).encode(), refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def keep_request(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.received.append(HubRequest(self.command, self.path, headers, body))

    def read_body(self) -> bytes:
        """Return the body. Raises: BrokenOff: this is where the connection is to end."""
        is_upload = self.command == "PUT"
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            remaining = None
        else:
            remaining = int(self.headers.get("Content-Length", 0))
        body = b""
        while remaining is None or len(body) < remaining:
            if remaining is None:
                size = int(self.rfile.readline().split(b";")[0], 16)
                block = self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    break
            else:
                block = self.rfile.read(min(BLOCK, remaining - len(body)))
                if not block:
                    break  # the client is gone
            body += block
            if is_upload and self.hub.bytes_until_break is not None:
                self.hub.bytes_until_break -= len(block)
                if self.hub.bytes_until_break <= 0:
                    self.keep_request(body)
                    self.hub.is_broken.set()
                    raise BrokenOff
        return body

    def answer(
        self,
        content: bytes,
        status: HTTPStatus = HTTPStatus.OK,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        fields = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, value in {**fields, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, content: Any) -> None:
        self.answer(json.dumps(content).encode())

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def user(self) -> str | None:
        """Return who asks. Raises: Refusal: a token that nobody has."""
        given = self.headers.get("Authorization")
        if given is None:
            return None
        token = given.removeprefix("Bearer ")
        if token not in self.hub.users:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header")
        return self.hub.users[token]

    def writer(self, namespace: str) -> None:
        """Check that who asks may write there. Raises: Refusal: not so."""
        user = self.user()
        if user is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
        token = self.headers["Authorization"].removeprefix("Bearer ")
        if user != namespace or token in self.hub.readers:
            raise Refusal(
                HTTPStatus.FORBIDDEN,
                f"You don't have the rights to write under the namespace {namespace}",
            )

    def repository(self, kind: str, name: str) -> Repository:
        """Return a repository that who asks may see. Raises: Refusal: there is none."""
        user = self.user()
        found = self.hub.repositories.get((kind, name))
        if found is None or (found.is_private and user != name.split("/")[0]):
            status = HTTPStatus.UNAUTHORIZED if user is None else HTTPStatus.NOT_FOUND
            raise Refusal(status, "Repository not found", "RepoNotFound")
        return found

    def commit_of(self, repository: Repository, revision: str) -> Commit:
        found = repository.at(revision)
        if found is None:
            raise Refusal(HTTPStatus.NOT_FOUND, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def route(self) -> None:
        """Find what answers the request."""
        url = urlsplit(self.path)
        path = unquote(url.path)
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, path):
                method(self, **match.groupdict(), query=parse_qs(url.query))
                return
        raise Refusal(HTTPStatus.NOT_FOUND, f"Nothing at {path}")

    def whoami(self, query: dict[str, list[str]]) -> None:
        user = self.user()
        if user is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
        token = self.headers["Authorization"].removeprefix("Bearer ")
        role = "read" if token in self.hub.readers else "write"
        access = {"displayName": "tests", "role": role}
        self.answer_json(
            {
                "type": "user",
                "name": user,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": access},
            }
        )

    def create(self, query: dict[str, list[str]]) -> None:
        asked = self.json
        kind = asked.get("type") or "model"
        namespace = asked.get("organization") or self.user() or ""
        self.writer(namespace)
        name = f"{namespace}/{asked['name']}"
        prefix = "" if kind == "model" else f"{kind}s/"
        url = f"{self.hub.url}/{prefix}{name}"
        if (kind, name) in self.hub.repositories:
            raise Refusal(HTTPStatus.CONFLICT, f"You already created this {kind} repo", url=url)
        is_private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[kind, name] = Repository(kind, name, is_private)
        self.answer_json({"url": url, "name": name, "id": name})

    def validate(self, query: dict[str, list[str]]) -> None:
        errors = card_errors(self.json["content"], self.json["repoType"])
        if errors:
            listed = [{"message": message} for message in errors]
            raise Refusal(HTTPStatus.BAD_REQUEST, "; ".join(errors), errors=listed, warnings=[])
        self.answer_json({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str, query: dict[str, list[str]]) -> None:
        repository = self.repository(kind, name)
        self.writer(name.split("/")[0])
        answers = []
        for asked in self.json["files"]:
            is_lfs = asked["path"].endswith(LFS_SUFFIXES) or asked["size"] > LFS_SIZE
            answer = {
                "path": asked["path"],
                "uploadMode": "lfs" if is_lfs else "regular",
                "shouldIgnore": False,
            }
            if (content := repository.files.get(asked["path"])) is not None:
                answer["oid"] = _object_id(asked["path"], content)
            answers.append(answer)
        self.answer_json({"files": answers})

    def lfs_batch(self, prefix: str, name: str, query: dict[str, list[str]]) -> None:
        self.repository("dataset" if prefix else "model", name)
        self.writer(name.split("/")[0])
        answers = []
        for asked in self.json["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.objects:
                href = f"{self.hub.url}/lfs-storage/{asked['oid']}"
                answer["actions"] = {"upload": {"href": href}}
            answers.append(answer)
        self.answer_json({"transfer": "basic", "objects": answers})

    def lfs_upload(self, oid: str, query: dict[str, list[str]]) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(HTTPStatus.BAD_REQUEST, "The content does not match its checksum")
        self.hub.objects[oid] = self.body
        self.answer(b"")

    def commit(self, kind: str, name: str, revision: str, query: dict[str, list[str]]) -> None:
        repository = self.repository(kind, name)
        self.writer(name.split("/")[0])
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = dict(repository.files)
        for line in lines[1:]:
            value = line["value"]
            path = value["path"]
            if line["key"] == "file":
                files[path] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refusal(HTTPStatus.BAD_REQUEST, f"LFS pointer of nothing: {path}")
                files[path] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                if path not in files:
                    raise Refusal(HTTPStatus.NOT_FOUND, "A file with this name doesn't exist")
                del files[path]
            else:
                raise Refusal(HTTPStatus.BAD_REQUEST, f"Unknown operation {line['key']}")
        errors = card_errors(files.get("README.md", b"").decode(), kind)
        if errors:
            raise Refusal(HTTPStatus.BAD_REQUEST, "; ".join(errors))
        repository.add(files, lines[0]["value"]["summary"])
        sha = repository.commits[-1].sha
        url = f"{self.hub.url}/{name}/commit/{sha}"
        self.answer_json({"success": True, "commitUrl": url, "commitOid": sha})

    def info(
        self, kind: str, name: str, query: dict[str, list[str]], revision: str | None = None
    ) -> None:
        repository = self.repository(kind, name)
        found = self.commit_of(repository, revision or "main")
        sha, files = found.sha, found.files
        card = files.get("README.md", b"").decode()
        data = RepoCard(card).data.to_dict() if card.startswith("---") else {}
        self.answer_json(
            {
                "_id": sha[:24],
                "id": name,
                "modelId": name,
                "sha": sha,
                "private": repository.is_private,
                "gated": False,
                "disabled": False,
                "tags": data.get("tags", []),
                "pipeline_tag": data.get("pipeline_tag"),
                "library_name": data.get("library_name"),
                "cardData": data,
                "siblings": [{"rfilename": path} for path in sorted(files)],
            }
        )

    def tree(
        self, kind: str, name: str, revision: str, query: dict[str, list[str]], path: str = ""
    ) -> None:
        files = self.commit_of(self.repository(kind, name), revision).files
        folder = f"{path.strip('/')}/" if path else ""
        inside = [file for file in sorted(files) if file.startswith(folder)]
        if not inside:
            raise Refusal(HTTPStatus.NOT_FOUND, f"{path} does not exist", "EntryNotFound")
        entries: dict[str, dict[str, Any]] = {}
        for file in inside:
            parts = file.removeprefix(folder).split("/")
            for depth in range(1, len(parts)):
                name_of_folder = folder + "/".join(parts[:depth])
                entries[name_of_folder] = {
                    "type": "directory",
                    "path": name_of_folder,
                    "oid": "0" * 40,
                    "size": 0,
                }
            entries[file] = _file_entry(file, files[file])
        if query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            depth = folder.count("/")
            entries = {path: entry for path, entry in entries.items() if path.count("/") == depth}
        self.answer_json(list(entries.values()))

    def paths_info(self, kind: str, name: str, revision: str, query: dict[str, list[str]]) -> None:
        files = self.commit_of(self.repository(kind, name), revision).files
        if "json" in self.headers.get("Content-Type", ""):
            paths = self.json["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        entries = [_file_entry(path, files[path]) for path in paths if path in files]
        entries += [
            {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
            for path in paths
            if path not in files and any(file.startswith(f"{path}/") for file in files)
        ]
        self.answer_json(entries)

    def commits(self, kind: str, name: str, revision: str, query: dict[str, list[str]]) -> None:
        repository = self.repository(kind, name)
        self.answer_json(
            [
                {
                    "id": commit.sha,
                    "title": commit.message,
                    "message": "",
                    "authors": [{"user": name.split("/")[0]}],
                    "date": "2026-01-01T00:00:00.000Z",
                }
                for commit in reversed(repository.commits)
            ]
        )

    def resolve(
        self, prefix: str, name: str, revision: str, path: str, query: dict[str, list[str]]
    ) -> None:
        repository = self.repository("dataset" if prefix else "model", name)
        found = self.commit_of(repository, revision)
        files = found.files
        headers = {"X-Repo-Commit": found.sha, "Accept-Ranges": "bytes"}
        if path not in files:
            content = json.dumps({"error": "Entry not found"}).encode()
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self.answer(content, HTTPStatus.NOT_FOUND, headers)
            return
        content = files[path]
        headers |= {
            "ETag": f'"{_object_id(path, content)}"',
            "Content-Type": "application/octet-stream",
            "X-Linked-Size": str(len(content)),
        }
        status = HTTPStatus.OK
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first = int(match[1])
            last = min(int(match[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], HTTPStatus.PARTIAL_CONTENT
        self.answer(content, status, headers)


REPOSITORY = r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)"
PREFIXED = r"/(?P<prefix>(?:datasets/)?)(?P<name>[^/]+/[^/]+)"
ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"/api/whoami-v2", _Handler.whoami),
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.validate),
    (rf"{REPOSITORY}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    (rf"{REPOSITORY}/commit/(?P<revision>[^/]+)", _Handler.commit),
    (rf"{REPOSITORY}/commits/(?P<revision>[^/]+)", _Handler.commits),
    (rf"{REPOSITORY}/paths-info/(?P<revision>[^/]+)", _Handler.paths_info),
    (rf"{REPOSITORY}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", _Handler.tree),
    (rf"{REPOSITORY}(?:/revision/(?P<revision>[^/]+))?", _Handler.info),
    (rf"{PREFIXED}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"/lfs-storage/(?P<oid>[0-9a-f]{64})", _Handler.lfs_upload),
    (rf"{PREFIXED}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]


def _object_id(path: str, content: bytes) -> str:
    """Return what git, or LFS, calls a content."""
    if path.endswith(LFS_SUFFIXES) or len(content) > LFS_SIZE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _file_entry(path: str, content: bytes) -> dict[str, Any]:
    oid = _object_id(path, content)
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if len(oid) == 64:
        entry["oid"] = hashlib.sha1(oid.encode()).hexdigest()
        entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
    return entry


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that was killed in the middle of a request is no news."""


def start() -> HubServer:
    """Start a server on a free port, in threads of this process; `stop` ends it."""
    hub = HubServer()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        thread.join()
        server.server_close()

    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.stop = stop
    return hub
