"""A Hub on loopback: the HTTP API that `huggingface_hub` and `transformers` use, over commits kept in memory.

As on the real one, large files go to and come from a storage server of another origin, a commit is one request, and
errors say their kind in `X-Error-Code`. Troubles can be ordered.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


TOKEN = "hf_" + "loopback" * 5
PART_SIZE = 100_000  # larger files are sent in parts


@dataclass
class Trouble:
    """What goes wrong with the next requests of a kind.

    Attributes:
        request: Regular expression for "METHOD path".
        what: The status of an answer; "drop": the connection, in the middle of what is sent either way; "lose": the
            answer to a request that was obeyed.
        times: How many requests it hits.
    """

    request: str
    what: int | str
    times: int = 1


@dataclass
class Repository:
    private: bool
    sdk: str | None = None  # of a Space
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # all files of each
    branches: dict[str, str] = field(default_factory=dict)
    pull_requests: list[str] = field(default_factory=list)

    def add(self, files: dict[str, bytes]) -> str:
        content = json.dumps([len(self.commits), {name: sha256(data) for name, data in files.items()}])
        commit = hashlib.sha1(content.encode()).hexdigest()
        self.commits[commit] = files
        return commit

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.branches["main"]]


class HubServer:
    """Serves while it is open.

    Attributes:
        url: For `HF_ENDPOINT`.
        repositories: By name.
        objects: Large files, by SHA-256.
        requests: "METHOD path" of every request.
        ranges: `Range` of every request for a part of a file.
        troubles: Those to come.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.troubles: list[Trouble] = []

    def __enter__(self) -> "HubServer":
        handler = type("Handler", (_Handler,), {"hub": self})
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.url, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def count(self, request: str) -> int:
        return sum(re.search(request, made) is not None for made in self.requests)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def object_id(path: str, content: bytes) -> str:
    """Return the hash that the Hub keeps of a file: large ones are those of a new repository's `.gitattributes`."""
    is_large = path.endswith(".safetensors")
    return sha256(content) if is_large else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = ""):
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        request = f"{self.command} {unquote(url.path)}"
        self.hub.requests.append(request)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        trouble = next((t for t in self.hub.troubles if t.times and re.search(t.request, request)), None)
        self.trouble = trouble.what if trouble else None
        if trouble:
            trouble.times -= 1
        length = int(self.headers.get("Content-Length", 0))
        if self.trouble == "drop" and length:
            self.rfile.read(length // 2)
            return self.drop()
        self.body = self.rfile.read(length)
        try:
            if isinstance(self.trouble, int):
                raise _Refusal(self.trouble, message="as ordered")
            self.route(url.path)
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message, "Retry-After": "0"}
            self.send(
                {"error": refusal.message}, refusal.status, {name: text for name, text in headers.items() if text}
            )

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def route(self, path: str) -> None:
        for method, pattern in ROUTES.items():
            command, _, name = method.partition(" ")
            if self.command.replace("HEAD", "GET") == command and (match := re.fullmatch(pattern, path)):
                arguments = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                writes = command == "POST" and name not in ("validate", "complete")  # the latter's URL is signed
                if writes and self.headers["Authorization"] != f"Bearer {TOKEN}":
                    raise _Refusal(401, message="Invalid credentials in Authorization header")
                if "repo" in arguments:
                    arguments["repo"] = self.repository(arguments["repo"])
                return getattr(self, name)(**arguments)
        raise _Refusal(404, message=f"{self.command} {path} is not part of this Hub")

    def send(self, content: Any = b"", status: int = 200, headers: dict[str, str] | None = None) -> None:
        if self.trouble == "lose":
            return self.drop()
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(data[: len(data) // 2] if self.trouble == "drop" else data)
        if self.trouble == "drop":
            self.drop()

    def drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def send_part(self, content: bytes, headers: dict[str, str]) -> None:
        if not (wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            return self.send(content, headers={"Accept-Ranges": "bytes", **headers})
        self.hub.ranges.append(wanted[0])
        start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
        self.send(content[start : end + 1], 206, {"Content-Range": f"bytes {start}-{end}/{len(content)}", **headers})

    def repository(self, name: str) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and self.headers["Authorization"] != f"Bearer {TOKEN}"):
            raise _Refusal(404, "RepoNotFound", "Repository not found")
        self.name = name
        return found

    def commit_of(self, repo: Repository, revision: str) -> str:
        if match := re.fullmatch(r"refs/pr/(\d+)", revision):
            return repo.pull_requests[int(match[1]) - 1]
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            raise _Refusal(404, "RevisionNotFound", "Invalid rev id")
        return commit

    # Reading

    def show(self, repo: Repository, revision: str = "main") -> None:
        commit = self.commit_of(repo, revision)
        siblings = [{"rfilename": path} for path in repo.commits[commit]]
        self.send({"id": self.name, "sha": commit, "private": repo.private, "tags": [], "siblings": siblings})

    def tree(self, repo: Repository, revision: str) -> None:
        entries = []
        for path, content in repo.commits[self.commit_of(repo, revision)].items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
            oid = object_id(path, content)
            large = {"oid": oid, "size": len(content), "pointerSize": 130}
            entries.append(entry | ({"oid": oid[:40], "lfs": large} if len(oid) == 64 else {"oid": oid}))
        self.send(entries)

    def refs(self, repo: Repository) -> None:
        branches = [
            {"name": b, "ref": f"refs/heads/{b}", "targetCommit": commit} for b, commit in repo.branches.items()
        ]
        pull_requests = [
            {"name": str(i), "ref": f"refs/pr/{i}", "targetCommit": commit}
            for i, commit in enumerate(repo.pull_requests, 1)
        ]
        self.send({"branches": branches, "converts": [], "tags": [], "pullRequests": pull_requests})

    def resolve(self, repo: Repository, revision: str, path: str) -> None:
        commit = self.commit_of(repo, revision)
        content = repo.commits[commit].get(path)
        if content is None:
            return self.send(b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        oid = object_id(path, content)
        headers = {"ETag": f'"{oid}"', "X-Repo-Commit": commit}
        if len(oid) < 64:
            return self.send_part(content, headers)
        linked = {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        self.send(b"", 302, {"Location": f"{self.hub.storage}/objects/{oid}", **linked, **headers})

    def download(self, oid: str) -> None:
        self.send_part(self.hub.objects[oid], {"ETag": f'"{oid}"'})

    # Writing

    def create(self) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if (wanted.get("type") == "space") != ("sdk" in wanted):
            raise _Refusal(400, message="a Space, and nothing else, has an sdk")
        answer = {"url": f"{self.hub.url}/{name}", "name": name}
        if name in self.hub.repositories:
            return self.send(answer, 409)
        repo = self.hub.repositories[name] = Repository(wanted.get("visibility") == "private", wanted.get("sdk"))
        repo.branches["main"] = repo.add({".gitattributes": b"*.safetensors filter=lfs\n"})
        self.send(answer)

    def validate(self) -> None:
        content = json.loads(self.body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        metadata = yaml.safe_load(match[1]) if match else None
        if isinstance(metadata, dict) and isinstance(metadata.get("license"), str):
            return self.send({"errors": [], "warnings": []})
        self.send({"errors": [{"message": '"license" must be one of the list'}], "warnings": []}, 400)

    def branch(self, repo: Repository, name: str) -> None:
        if name in repo.branches:
            raise _Refusal(409, message="Reference already exists")
        repo.branches[name] = self.commit_of(repo, json.loads(self.body).get("startingPoint", "main"))
        self.send({})

    def preupload(self, repo: Repository, revision: str) -> None:
        there = repo.commits[self.commit_of(repo, revision)]
        answers = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            mode = "lfs" if len(object_id(path, b"")) == 64 else "regular"
            oid = object_id(path, there[path]) if path in there else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send({"files": answers})

    def batch(self, repo: Repository) -> None:
        answers = []
        for wanted in json.loads(self.body)["objects"]:
            href = f"{self.hub.storage}/objects/{wanted['oid']}"
            upload: dict[str, Any] = {"href": href}
            if wanted["size"] > PART_SIZE:
                parts = range(1, -(-wanted["size"] // PART_SIZE) + 1)
                hrefs = {str(i): f"{href}/{i}" for i in parts}
                upload = {"href": f"{href}/complete", "header": {"chunk_size": str(PART_SIZE), **hrefs}}
            actions = {"upload": upload, "verify": {"href": f"{self.hub.url}/{self.name}.git/info/lfs/objects/verify"}}
            answers.append(wanted if wanted["oid"] in self.hub.objects else wanted | {"actions": actions})
        self.send({"transfer": "basic", "objects": answers})

    def upload(self, oid: str, part: str = "") -> None:
        (self.hub.parts if part else self.hub.objects)[f"{oid}{part}"] = self.body
        self.send(headers={"ETag": f'"{sha256(self.body)}"'})

    def complete(self, oid: str) -> None:
        wanted = json.loads(self.body)["parts"]
        parts = [self.hub.parts[f"{oid}/{part['partNumber']}"] for part in wanted]
        if [f'"{sha256(part)}"' for part in parts] != [part["etag"] for part in wanted]:
            raise _Refusal(400, message="a part is not what was sent")
        self.hub.objects[oid] = b"".join(parts)
        self.send({})

    def verify(self, repo: Repository) -> None:
        wanted = json.loads(self.body)
        content = self.hub.objects.get(wanted["oid"], b"")
        if (sha256(content), len(content)) != (wanted["oid"], wanted["size"]):
            raise _Refusal(400, message="the object is not what it claims to be")
        self.send({})

    def commit(self, repo: Repository, revision: str) -> None:
        if revision not in repo.branches:
            raise _Refusal(404, "RevisionNotFound", "Invalid rev id")
        parent = repo.branches[revision]
        files = dict(repo.commits[parent])
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header" and value.get("parentCommit", parent) != parent:
                raise _Refusal(412, message="A commit has happened since. Please refresh and try again.")
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        commit = repo.add(files)
        page = f"{self.hub.url}/{'spaces/' if repo.sdk else ''}{self.name}"
        answer = {"success": True, "commitOid": commit, "commitUrl": f"{page}/commit/{commit}"}
        if self.query.get("create_pr"):
            repo.pull_requests.append(commit)
            answer["pullRequestUrl"] = f"{self.hub.url}/{self.name}/discussions/{len(repo.pull_requests)}"
        else:
            repo.branches[revision] = commit
        self.send(answer)


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = {
    "POST create": "/api/repos/create",
    "POST validate": "/api/validate-yaml",
    "GET show": rf"/api/(?:models|datasets|spaces)/{REPO}(/revision/{REVISION})?",
    "GET tree": rf"/api/(?:models|datasets|spaces)/{REPO}/tree/{REVISION}/?",
    "GET refs": rf"/api/(?:models|datasets|spaces)/{REPO}/refs",
    "POST branch": rf"/api/(?:models|datasets|spaces)/{REPO}/branch/(?P<name>[^/]+)",
    "POST preupload": rf"/api/(?:models|datasets|spaces)/{REPO}/preupload/{REVISION}",
    "POST commit": rf"/api/(?:models|datasets|spaces)/{REPO}/commit/{REVISION}",
    "POST batch": rf"(?:/datasets|/spaces)?/{REPO}\.git/info/lfs/objects/batch",
    "POST verify": rf"(?:/datasets|/spaces)?/{REPO}\.git/info/lfs/objects/verify",
    "GET resolve": rf"(?:/datasets|/spaces)?/{REPO}/resolve/{REVISION}/(?P<path>.+)",
    "GET download": r"/objects/(?P<oid>\w+)",
    "PUT upload": r"/objects/(?P<oid>\w+)(?P<part>/\d+)?",
    "POST complete": r"/objects/(?P<oid>\w+)/complete",
}
