"""A local server with the part of the Hub's API that huggingface_hub uses here: downloads, listings, uploads by git-LFS."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading

from huggingface_hub import constants

COMMIT = "a" * 40
TOKEN = "hf_a-token-of-the-tests"


class Hub(http.server.ThreadingHTTPServer):
    """A server for tests to control.

    files: content by (repo, name). lie: content sent instead of any file's. status: answer to all GET requests. private: by
    repository. commits: for each commit its summary and the files inside it (not by LFS). refusal: answer to creating a
    repository. invalid: error message for every README.md.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[tuple[str, str], bytes] = {}
        self.lie: bytes | None = None
        self.status: tuple[int, str] | None = None
        self.downloads = 0
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.commits: list[tuple[str, set[str]]] = []
        self.refusal: tuple[int, str] | None = None
        self.invalid: str | None = None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        if self.server.status is not None:
            return self.answer(self.server.status[0], {"X-Error-Code": self.server.status[1]}, b"")
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo = "/".join(parts[2:4])
            if len(parts) == 4 and repo not in self.server.private:
                return self.answer(404, {"X-Error-Code": "RepoNotFound"}, b"")
            if len(parts) == 4:
                return self.json(200, {"id": repo, "sha": COMMIT, "private": self.server.private[repo]})
            found = [
                (name, len(data)) for (owner, name), data in self.server.files.items() if owner == repo
            ]  # .../tree/<revision>
            return self.json(200, [{"type": "file", "path": name, "size": size, "oid": COMMIT} for name, size in found])
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        content = self.server.files.get((repo, name))
        if content is None:
            code = "EntryNotFound" if any(owner == repo for owner, _ in self.server.files) else "RepoNotFound"
            return self.answer(404, {"X-Error-Code": code}, b"")
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if not body:
            return self.answer(200, headers, content, body=False)
        self.server.downloads += 1
        sent = content if self.server.lie is None else self.server.lie
        return self.answer(200, headers, sent)

    def do_POST(self):
        content = self.body()
        parts = self.path.partition("?")[0].strip("/").split("/")
        if self.path == "/api/validate-yaml":
            errors = [{"message": self.server.invalid}] if self.server.invalid else []
            assert json.loads(content)["content"].startswith("---\n")
            return self.json(400 if errors else 200, {"errors": errors, "warnings": []})
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.json(401, {"error": "Invalid credentials in Authorization header"})
        if self.path == "/api/repos/create":
            return self.create(json.loads(content))
        if parts[-1] == "batch":  # <repo>.git/info/lfs/objects/batch
            return self.json(
                200, {"transfer": "basic", "objects": [self.room(wanted) for wanted in json.loads(content)["objects"]]}
            )
        repo = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = json.loads(content)["files"]
            modes = [(file["path"], "lfs" if file["path"].endswith((".safetensors", ".png")) else "regular") for file in files]
            return self.json(200, {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes]})
        assert parts[4] == "commit"
        return self.commit(repo, [json.loads(line) for line in content.splitlines()])

    def do_PUT(self):
        content = self.body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.objects[oid] = content
        self.answer(200, {}, b"")

    def create(self, wanted):
        repo = f"{wanted['organization']}/{wanted['name']}"
        if self.server.refusal:
            status, message = self.server.refusal
            return self.json(status, {"error": message.replace("{authorization}", self.headers["Authorization"])})
        known = repo in self.server.private
        self.server.private.setdefault(repo, wanted.get("visibility") == "private")
        return self.json(409 if known else 200, {"url": f"{self.server.url}/{repo}"})

    def room(self, wanted):
        if wanted["oid"] in self.server.objects:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.server.url}/objects/{wanted['oid']}"}}}

    def commit(self, repo, operations):
        (header,) = [entry["value"] for entry in operations if entry["key"] == "header"]
        inside = set()
        for entry in operations:
            value = entry["value"]
            if entry["key"] == "file":
                self.server.files[repo, value["path"]] = base64.b64decode(value["content"])
                inside.add(value["path"])
            elif entry["key"] == "lfsFile":
                self.server.files[repo, value["path"]] = self.server.objects[value["oid"]]
        self.server.commits.append((header["summary"], inside))
        return self.json(200, {"commitUrl": f"{self.server.url}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def json(self, status, content):
        return self.answer(status, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def answer(self, status, headers, content, body=True):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


def use_hub(monkeypatch, url, cache):
    """Does what HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_DISABLE_XET do, which huggingface_hub reads at import only."""

    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@contextlib.contextmanager
def serve(monkeypatch, cache):
    """Runs a Hub and makes huggingface_hub use it."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    use_hub(monkeypatch, server.url, cache)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
