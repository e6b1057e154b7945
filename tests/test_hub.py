"""Models by their names on the hub: a server on this machine answers as the hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

MODEL = Path(__file__).parent / "fixtures" / "labse"
COMMIT = "c0ffee" * 6 + "abcd"
LOAD = """
import json, sys
from jaxir import Retriever
from jaxir.errors import UserError
for name in sys.argv[1:]:
    try:
        said = Retriever.load(name).fingerprint
    except UserError as error:
        said = str(error)
    print(json.dumps(said))
"""


def files_of(folder):
    return {str(x.relative_to(folder)): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


WHOLE = files_of(MODEL)
PICKLED = {name: body for name, body in WHOLE.items() if not name.endswith(".safetensors")}
REPOSITORIES = {
    "owner/whole": WHOLE | {"pytorch_model.bin": b"!", "onnx/model.onnx": b"!", "a/b/c.json": b"!"},
    "owner/pickled": PICKLED | {"pytorch_model.bin": b"!"},
}


class Handler(BaseHTTPRequestHandler):
    """What the hub's client asks for on its way to a model's files."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/").split("/")
        if path[:2] == ["api", "models"]:
            self.describe("/".join(path[2:4]), path[4:])
            return
        name, file = "/".join(path[:2]), "/".join(path[4:])
        if path[2:4] != ["resolve", COMMIT]:
            self.answer(b"{}", 404)  # what else its client looks for
            return
        self.server.given.add((name, file))
        self.answer(REPOSITORIES[name][file])

    do_HEAD = do_GET  # noqa: N815, the base class asks for that name

    def describe(self, name, asked):
        """A repository, or the tree of its files."""
        if name == "owner/gated":
            self.answer(b"{}", 403, {"X-Error-Code": "GatedRepo"})
        elif name not in REPOSITORIES:
            self.answer(b"{}", 401, {"X-Error-Code": "RepoNotFound"})
        elif asked[0] == "tree":
            files = REPOSITORIES[name].items()
            tree = [
                {"type": "file", "path": path, "size": len(body), "oid": digest(body)}
                for path, body in files
            ]
            self.answer(json.dumps(tree).encode())
        else:
            files = [{"rfilename": path} for path in REPOSITORIES[name]]
            described = {"id": name, "sha": COMMIT, "siblings": files}
            self.answer(json.dumps(described).encode())

    def answer(self, body, status=200, headers=()):
        """Send all of it, or its headers alone."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{digest(body)}"')
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def digest(body):
    return hashlib.sha1(body).hexdigest()


@pytest.fixture(scope="module")
def hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.given = set()
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def load(cache, url, *names, **environment):
    """What each name gives in a process of its own, which the hub's settings are read by."""
    settings = {"HF_HOME": str(cache), "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "x"}
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, *names],
        env=os.environ | settings | {"no_proxy": "127.0.0.1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_a_name_is_downloaded_once_and_pickles_are_not(hub, tmp_path):
    url = f"http://127.0.0.1:{hub.server_port}"
    names = ("owner/whole", "owner/pickled", "owner/none", "owner/gated", "owner/a b")
    here, whole, *refused = load(tmp_path, url, str(MODEL), *names)
    assert whole == here
    for said, message in zip(
        refused,
        (
            "no model.safetensors; convert pickled weights first",
            "owner/none: neither a folder here nor a model that the hub gives out "
            "(it has none of that name; for a private one run: hf auth login)",
            "(its page there says whom to ask; then run: hf auth login)",
            "owner/a b: neither a folder here nor a model that the hub gives out (Repo id must",
        ),
        strict=True,
    ):
        assert message in said
        assert "\n" not in said
    given = {file for name, file in hub.given if name == "owner/whole"}
    assert given == {name for name in WHOLE if name.endswith((".json", ".safetensors"))}
    # what is in the cache needs no hub, and the rest is told why it cannot be had
    for environment, why in (
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "it cannot be reached"),
    ):
        again, other = load(tmp_path, url, "owner/whole", "owner/other", **environment)
        assert again == here
        assert other == (
            "owner/other: neither a folder here nor a model that the hub gives out "
            f"({why}, and the cache here has not all of its files)"
        )
