"""A small Hub for tests: repositories, commits, tags, large files and Spaces over HTTP, as far as `huggingface_hub` asks for them.

    with HubServer() as hub:  # hub.url goes into HF_ENDPOINT; hub.tokens says who may do what

A Space's repository is named spaces/OWNER/NAME, and `hub.start_space` runs its app. Holds everything in memory, and can cut a
connection, lose an answer or fall silent, as a real one does.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LARGE = ("*.safetensors", "*.gz", "*.bin", "*.pt", "tokenizer.json")  # what Hubs keep beside git
Files = dict[str, bytes]


@dataclass
class Space:
    """How a Space fares. It is built anew after each change, and runs what was committed by then."""

    stage: str = "NO_APP_FILE"
    hardware: str | None = None
    requested: str = "cpu-basic"
    sleep_time: int | None = None
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    sha: str = ""
    host: str = ""
    looks: int = 0  # until it has been built
    starting: threading.Thread | None = None

    def build(self) -> None:
        if self.stage != "PAUSED":
            self.stage, self.looks = "BUILDING", 2


@dataclass
class Repo:
    """One repository: commits by their id, and where branches and tags point."""

    owner: str
    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    main: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    space: Space | None = None

    def commit(self, files: Files, title: str) -> str:
        content = [title, self.main, *(f"{path} {_blob_id(data)}" for path, data in sorted(files.items()))]
        sha = hashlib.sha1("\n".join(content).encode()).hexdigest()
        self.commits[sha] = files
        self.main = sha
        self.log.append(title)
        return sha

    def find(self, revision: str) -> str | None:
        """The commit that a revision means."""
        return {"main": self.main, **self.tags}.get(revision) or (revision if revision in self.commits else None)

    def change(self, edit: Callable[[Files], object], tag: str | None = None) -> str:
        """A commit made by `edit` behind everybody's back, for tests that tamper."""
        files = dict(self.commits[self.main])
        edit(files)
        sha = self.commit(files, "tampered")
        if tag:
            self.tags[tag] = sha
        return sha


@dataclass
class Faults:
    """What goes wrong, and how often still."""

    silent: threading.Event = field(default_factory=threading.Event)
    cut_uploads: int = 0
    lose_commits: int = 0
    full: bool = False
    refuse: tuple[str, int] | None = None  # method, times
    unpaid: bool = False
    build: str = "RUNNING"  # the stage that building a Space ends in


class HubServer:
    """The server; a context manager that runs it in a thread."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: Files = {}
        self.tokens = {"hf_owner": "somebody", "hf_other": "another"}
        self.readers: set[str] = set()  # tokens that may only read
        self.faults = Faults()
        self.start_space: Callable[[str, Files, dict[str, str]], str] = lambda name, files, environment: "http://127.0.0.1:9"
        self.requests: list[tuple[str, str]] = []
        server = self

        class Bound(_Handler):
            hub = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.faults.silent.clear()
        self._http.shutdown()
        self._http.server_close()


class _Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _is_large(path: str) -> bool:
    return any(fnmatch(path, pattern) for pattern in LARGE)


class _Handler(BaseHTTPRequestHandler):
    """Routes; the paths are the Hub's own."""

    hub: HubServer
    REPO = r"(?:models/|datasets/)?(?P<repo>(?:spaces/)?[^/]+/[^/]+)"
    protocol_version = "HTTP/1.1"
    ROUTES: list[tuple[str, str, str]] = [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", rf"/api/{REPO}/preupload/(?P<rev>[^/]+)", "preupload"),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/large/(?P<oid>[0-9a-f]{64})", "upload"),
        ("POST", rf"/api/{REPO}/commit/(?P<rev>[^/]+)", "commit"),
        ("GET", rf"/api/{REPO}/refs", "refs"),
        ("GET", rf"/api/{REPO}/tree/(?P<rev>[^/]+)(?:/(?P<under>.+))?", "tree"),
        ("POST", rf"/api/{REPO}/paths-info/(?P<rev>[^/]+)", "paths"),
        ("POST", rf"/api/{REPO}/tag/(?P<rev>[^/]+)", "tag"),
        ("DELETE", rf"/api/{REPO}/tag/(?P<tag>[^/]+)", "untag"),
        ("GET", rf"/api/{REPO}/runtime", "runtime"),
        ("POST", rf"/api/{REPO}/hardware", "hardware"),
        ("POST", rf"/api/{REPO}/sleeptime", "sleep_time"),
        ("POST", rf"/api/{REPO}/(?P<action>pause|restart)", "pause_or_restart"),
        ("GET", rf"/api/{REPO}/(?P<kind>variables|secrets)", "values"),
        ("POST", rf"/api/{REPO}/(?P<kind>variables|secrets)", "set_value"),
        ("DELETE", rf"/api/{REPO}/(?P<kind>variables|secrets)", "delete_value"),
        ("GET", rf"/api/{REPO}/logs/(?P<kind>build|run)", "logs"),
        ("PUT", rf"/api/{REPO}/settings", "settings"),
        ("GET", rf"/api/{REPO}(?:/revision/(?P<rev>[^/]+))?", "info"),
        ("HEAD", rf"/{REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
        ("GET", rf"/{REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
    ]

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _serve(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        while self.hub.faults.silent.is_set():
            threading.Event().wait(0.05)
        try:
            refuse = self.hub.faults.refuse
            if refuse and refuse[0] == self.command and refuse[1] > 0:
                self.hub.faults.refuse = (refuse[0], refuse[1] - 1)
                raise _Refusal(503, "Service unavailable")
            for method, pattern, name in self.ROUTES:
                match = re.fullmatch(pattern, path)
                if match and method == self.command:
                    found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                    getattr(self, f"_{name}")(**found)
                    return
            raise _Refusal(404, f"no route for {self.command} {path}")
        except _Refusal as refusal:
            self.close_connection = True  # its body may not have been read
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal), "Connection": "close"}
            self._send(refusal.status, {"error": str(refusal)}, headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve

    def _send(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise _Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def _repo(self, name: str, write: bool = False) -> Repo:
        user, repo = self._user(), self.hub.repos.get(name)
        if repo is None or (repo.private and user != repo.owner):
            raise _Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if write and user != repo.owner:
            raise _Refusal(403, "You don't have the rights to write to this repository")
        return repo

    def _files(self, name: str, revision: str) -> tuple[str, Files]:
        repo = self._repo(name)
        sha = repo.find(revision)
        if sha is None:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, repo.commits[sha]

    def _whoami(self) -> None:
        user = self._user()
        if user is None:
            raise _Refusal(401, "Invalid username or password.")
        role = "read" if (self.headers["Authorization"] or "").removeprefix("Bearer ") in self.hub.readers else "write"
        self._send(200, {"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": role}}})

    def _create(self) -> None:
        wanted, user = json.loads(self._body()), self._user()
        space = Space(requested=wanted.get("hardware", "cpu-basic")) if wanted.get("type") == "space" else None
        name = f"{wanted['organization'] or user}/{wanted['name']}"
        if user is None:
            raise _Refusal(401, "Invalid username or password.")
        if name.split("/")[0] != user:
            raise _Refusal(403, f"You don't have the rights to create a model under the namespace {name.split('/')[0]}")
        name = f"spaces/{name}" if space else name
        address = f"datasets/{name}" if wanted.get("type") == "dataset" else name
        answer = {"url": f"{self.hub.url}/{address}", "name": name}
        if name in self.hub.repos:
            self._send(409, {**answer, "error": "You already created this model repo"})
            return
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.repos[name] = repo = Repo(user, private, space=space)
        repo.commit(
            {".gitattributes": b"*.safetensors filter=lfs\n"} | ({"README.md": b"---\nsdk: gradio\n---\n"} if space else {}),
            "initial commit",
        )
        self._send(200, answer)

    def _validate(self) -> None:
        text = json.loads(self._body())["content"]
        try:
            values = yaml.safe_load(text.split("---")[1])
        except (IndexError, yaml.YAMLError) as error:
            raise _Refusal(400, "no metadata") from error
        errors = [{"message": f"{key} must be text"} for key in ("license", "library_name") if not isinstance(values.get(key, ""), str)]
        self._send(400 if errors else 200, {"errors": errors, "warnings": []})

    def _preupload(self, repo: str, rev: str) -> None:
        files = self._repo(repo, write=True)
        present = files.commits[files.main]
        answer = []
        for wanted in json.loads(self._body())["files"]:
            path = wanted["path"]
            known = present.get(path)
            oid = None if known is None else hashlib.sha256(known).hexdigest() if _is_large(path) else _blob_id(known)
            answer.append({"path": path, "uploadMode": "lfs" if _is_large(path) else "regular", "shouldIgnore": False, "oid": oid})
        self._send(200, {"files": answer})

    def _batch(self, repo: str) -> None:
        self._repo(repo, write=True)
        objects = []
        for wanted in json.loads(self._body())["objects"]:
            action = {"upload": {"href": f"{self.hub.url}/large/{wanted['oid']}", "header": {}}}
            objects.append({**wanted, **({} if wanted["oid"] in self.hub.large else {"actions": action})})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _upload(self, oid: str) -> None:
        if self.hub.faults.full:
            raise _Refusal(413, "Storage limit reached")
        if self.hub.faults.cut_uploads > 0:
            self.hub.faults.cut_uploads -= 1
            self.rfile.read(int(self.headers["Content-Length"]) // 2)
            self.connection.close()
            raise BrokenPipeError
        data = self._body()
        if hashlib.sha256(data).hexdigest() != oid:
            raise _Refusal(400, "the content is not what was announced")
        self.hub.large[oid] = data
        self._send(200, {})

    def _commit(self, repo: str, rev: str) -> None:
        target = self._repo(repo, write=True)
        title, files = "", dict(target.commits[target.main])
        for line in self._body().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, target.main):
                    raise _Refusal(412, "A commit has happened since. Please refresh and try again.")
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise _Refusal(400, "a large file was never uploaded")
                files[value["path"]] = self.hub.large[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        sha = target.commit(files, title)
        if target.space:
            target.space.build()
        if self.hub.faults.lose_commits > 0:
            self.hub.faults.lose_commits -= 1
            self.connection.close()
            raise BrokenPipeError
        self._send(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{sha}", "commitOid": sha})

    def _refs(self, repo: str) -> None:
        found = self._repo(repo)
        tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": sha} for name, sha in found.tags.items()]
        branches = [{"name": "main", "ref": "refs/heads/main", "targetCommit": found.main}]
        self._send(200, {"branches": branches, "tags": tags, "converts": []})

    def _tree(self, repo: str, rev: str, under: str = "") -> None:
        entries = self._entries(self._files(repo, rev)[1])
        inside = [entry for entry in entries if not under or entry["path"].startswith(under + "/")]
        if under and not inside:
            raise _Refusal(404, "Entry not found", "EntryNotFound")
        deep = "recursive=true" in urlsplit(self.path).query.lower()
        self._send(200, [entry for entry in inside if deep or "/" not in entry["path"].removeprefix(under + "/" if under else "")])

    def _paths(self, repo: str, rev: str) -> None:
        asked = json.loads(self._body())["paths"]
        entries = {entry["path"]: entry for entry in self._entries(self._files(repo, rev)[1])}
        self._send(200, [entries[path] for path in ([asked] if isinstance(asked, str) else asked) if path in entries])

    @staticmethod
    def _entries(files: Files) -> list[dict[str, Any]]:
        folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
        entries: list[dict[str, Any]] = [{"type": "directory", "path": path, "oid": _blob_id(path.encode()), "size": 0} for path in folders]
        for path, data in files.items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _blob_id(data)}
            if _is_large(path):
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            entries.append(entry)
        return entries

    def _tag(self, repo: str, rev: str) -> None:
        target = self._repo(repo, write=True)
        sha, name = self._files(repo, rev)[0], json.loads(self._body())["tag"]
        if name in target.tags:
            raise _Refusal(409, f"Tag {name} exists already")
        target.tags[name] = sha
        self._send(200, {})

    def _untag(self, repo: str, tag: str) -> None:
        target = self._repo(repo, write=True)
        if target.tags.pop(tag, None) is None:
            raise _Refusal(404, f"Tag {tag} not found", "RevisionNotFound")
        self._send(200, {})

    def _info(self, repo: str, rev: str = "main") -> None:
        sha, files = self._files(repo, rev)
        siblings = []
        for path, data in files.items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": _blob_id(data)}
            if _is_large(path):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        card = files.get("README.md", b"").decode()
        values = yaml.safe_load(card.split("---")[1]) if card.startswith("---") else None
        found = self.hub.repos[repo]
        space = {"host": found.space.host, "sdk": "gradio"} if found.space else {}
        answer = {"id": repo.removeprefix("spaces/"), "sha": sha, "private": found.private, "tags": [], "siblings": siblings}
        self._send(200, {**answer, "cardData": values, **space})

    def _resolve(self, repo: str, rev: str, path: str) -> None:
        sha, files = self._files(repo, rev)
        if path not in files:
            raise _Refusal(404, "Entry not found", "EntryNotFound")
        data = files[path]
        tag = hashlib.sha256(data).hexdigest() if _is_large(path) else _blob_id(data)
        linked = {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(data))} if _is_large(path) else {}
        self._send(200, data, {"X-Repo-Commit": sha, "ETag": f'"{tag}"', "Accept-Ranges": "bytes", **linked})

    def _space(self, repo: str, write: bool = True) -> Space:
        space = self._repo(repo, write).space
        if space is None:
            raise _Refusal(404, "Repository not found", "RepoNotFound")
        return space

    def _send_runtime(self, space: Space) -> None:
        hardware = {"current": space.hardware, "requested": space.requested}
        self._send(200, {"stage": space.stage, "hardware": hardware, "gcTimeout": space.sleep_time, "sha": space.sha, "storage": None})

    def _runtime(self, repo: str) -> None:
        space, files = self._space(repo, write=False), self.hub.repos[repo]
        if space.stage == "BUILDING" and not space.starting:
            space.looks -= 1
            if space.looks <= 0:
                if self.hub.faults.build == "RUNNING":  # an app may take long to start, and the Hub answers meanwhile
                    space.starting = threading.Thread(target=self._start, args=(space, repo, files.main), daemon=True)
                    space.starting.start()
                else:
                    space.stage, space.hardware, space.sha = self.hub.faults.build, space.requested, files.main
        self._send_runtime(space)

    def _start(self, space: Space, repo: str, commit: str) -> None:
        try:
            files, environment = self.hub.repos[repo].commits[commit], {**space.variables, **space.secrets}
            space.host = self.hub.start_space(repo.removeprefix("spaces/"), files, environment)
            space.stage, space.hardware, space.sha = "RUNNING", space.requested, commit
        except Exception:
            space.stage = "RUNTIME_ERROR"
            raise
        finally:
            space.starting = None

    def _hardware(self, repo: str) -> None:
        wanted, space = json.loads(self._body()), self._space(repo)
        if self.hub.faults.unpaid and wanted["flavor"] != "cpu-basic":
            raise _Refusal(402, "You need a valid payment method for this hardware")
        space.requested, space.sleep_time = wanted["flavor"], wanted.get("sleepTimeSeconds", space.sleep_time)
        space.build()
        self._send_runtime(space)

    def _sleep_time(self, repo: str) -> None:
        space = self._space(repo)
        if space.requested in ("cpu-basic", "zero-a10g"):
            raise _Refusal(400, f"Cannot change the sleep time for {space.requested} Spaces.")
        space.sleep_time = json.loads(self._body())["seconds"]
        self._send_runtime(space)

    def _pause_or_restart(self, repo: str, action: str) -> None:
        space = self._space(repo)
        space.stage = "PAUSED" if action == "pause" else "STOPPED"
        space.hardware = None
        space.build()
        self._send_runtime(space)

    def _values(self, repo: str, kind: str) -> None:
        space = self._space(repo)
        if kind == "secrets":  # never their values
            self._send(200, {name: {"key": name} for name in space.secrets})
        else:
            self._send(200, {name: {"key": name, "value": value} for name, value in space.variables.items()})

    def _set_value(self, repo: str, kind: str) -> None:
        wanted, space = json.loads(self._body()), self._space(repo)
        getattr(space, kind)[wanted["key"]] = wanted["value"]
        space.build()
        self._values(repo, kind)

    def _delete_value(self, repo: str, kind: str) -> None:
        wanted, space = json.loads(self._body()), self._space(repo)
        del getattr(space, kind)[wanted["key"]]
        space.build()
        self._values(repo, kind)

    def _logs(self, repo: str, kind: str) -> None:
        self._space(repo)
        lines = [f"the {kind} log\n", "its second line"]
        events = "".join(f"data: {json.dumps({'data': line, 'timestamp': ''})}\n\n" for line in lines)
        self._send(200, f"{events}data:\n\n".encode(), {"Content-Type": "text/event-stream"})

    def _settings(self, repo: str) -> None:
        target = self._repo(repo, write=True)
        target.private = json.loads(self._body())["visibility"] == "private"
        self._send(200, {})
