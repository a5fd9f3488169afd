"""A stand-in for the Hugging Face Hub on this machine, as far as one client pushes a model and another reads a file.

It keeps repositories in memory, wants a token for writing, and answers errors with the Hub's own headers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"


class Hub:
    def __init__(self) -> None:
        self.endpoint = ""
        self.private: set[str] = set()
        self.branches: dict[str, dict[str, str]] = {}  # repository -> branch -> commit
        self.commits: dict[str, dict[str, bytes]] = {}  # commit -> name -> content
        self.large: dict[str, bytes] = {}  # SHA-256 -> content
        self.requests: list[tuple[str, str]] = []

    def create(self, repo: str, private: bool) -> None:
        if private:
            self.private.add(repo)
        self.branches.setdefault(repo, {"main": self._commit({})})

    def commit(self, repo: str, branch: str, lines: list[dict]) -> str:
        files = dict(self.commits[self.branches[repo][branch]])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        self.branches[repo][branch] = self._commit(files)
        return self.branches[repo][branch]

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[repo][branch]]

    def _commit(self, files: dict[str, bytes]) -> str:
        name = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[name] = files
        return name


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object, status: int = 200, **headers: str) -> None:
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._read()
        self.hub.requests.append(("POST", path))
        if not self._known:
            return self._json({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            given = json.loads(body)
            repo = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
            private = bool(given.get("private")) or given.get("visibility") == "private"
            self.hub.create(repo, private)
            return self._json({"url": f"{self.hub.endpoint}/{repo}", "name": repo})
        if found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)/preupload/(.+)", path):
            files = json.loads(body)["files"]
            modes = [
                {"path": file["path"], "shouldIgnore": False, "uploadMode": "lfs" if file["size"] > 8192 else "regular"}
                for file in files
            ]
            return self._json({"files": modes})
        if found := re.fullmatch(r"/(\w+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {
                    "oid": each["oid"],
                    "size": each["size"],
                    "actions": {"upload": {"href": f"{self.hub.endpoint}/upload/{each['oid']}"}},
                }
                for each in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)/branch/(.+)", path):
            branches = self.hub.branches[found[1]]
            branches.setdefault(found[2], branches["main"])
            return self._json({})
        if found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)/commit/(.+)", path):
            lines = [json.loads(line) for line in body.splitlines()]
            commit = self.hub.commit(found[1], found[2], lines)
            url = f"{self.hub.endpoint}/{found[1]}/commit/{commit}"
            return self._json({"commitUrl": url, "commitOid": commit})
        return self._json({"error": f"the stub knows no {path}"}, 404)

    def do_PUT(self) -> None:
        body = self._read()
        wanted = self.path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != wanted:
            return self._answer(400)
        self.hub.large[wanted] = body
        return self._answer(200)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        found = re.fullmatch(r"/(\w+/[\w.-]+)/resolve/([^/]+)/(.+)", path)
        if found is None:
            return self._json({"error": f"the stub knows no {path}"}, 404)
        repo, revision, name = found[1], unquote(found[2]), unquote(found[3])
        if repo not in self.hub.branches or (repo in self.hub.private and not self._known):
            return self._json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        commit = self.hub.branches[repo].get(revision, revision)
        if commit not in self.hub.commits:
            return self._json({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        if name not in self.hub.commits[commit]:
            return self._json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = self.hub.commits[commit][name]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self._answer(200, content, X_Repo_Commit=commit, ETag=etag)


@contextmanager
def hub():
    """A Hub that listens on this machine until the block ends."""
    served = Hub()
    handler = type("Handler", (_Handler,), {"hub": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    served.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
