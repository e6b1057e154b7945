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
from jaxir.runtime.hub import revisions
for name in sys.argv[1:]:
    try:
        said = Retriever.load(name).fingerprint
    except UserError as error:
        said = str(error)
    print(json.dumps(said))
print(json.dumps(revisions()))
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
        revision = next(iter(asked[1:2]), "main")
        if revision not in ("main", "v1", COMMIT):
            self.answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        elif name == "owner/gated":
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


def run_python(cache, url, *arguments, **environment):
    """What a process of its own prints, which the hub's settings are read by."""
    settings = {"HF_HOME": str(cache), "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "x"}
    ran = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | settings | {"no_proxy": "127.0.0.1"} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def load(cache, url, *names, **environment):
    """What each name gives, and then the revisions that were read."""
    printed = run_python(cache, url, "-c", LOAD, *names, **environment)
    return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.slow
def test_a_name_is_downloaded_once_and_pickles_are_not(hub, tmp_path):
    url = f"http://127.0.0.1:{hub.server_port}"
    names = ("owner/whole", "owner/pickled", "owner/none", "owner/gated", "owner/a b")
    here, whole, *refused, read = load(tmp_path, url, str(MODEL), *names)
    assert whole == here
    assert read == {"owner/whole": COMMIT, "owner/pickled": COMMIT}
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
        again, other, pinned, read = load(
            tmp_path, url, "owner/whole", "owner/other", "owner/other@v2", **environment
        )
        assert again == here
        assert read == {"owner/whole": COMMIT}
        assert other == (
            f"owner/other: neither a folder here nor a model that the hub gives out ({why}, and "
            "the cache here has not all of its files; where there is a network run: hf download "
            "owner/other --local-dir FOLDER, and name that folder)"
        )
        assert "hf download owner/other --revision v2 --local-dir FOLDER" in pinned


def test_a_name_takes_a_revision(hub, tmp_path):
    url = f"http://127.0.0.1:{hub.server_port}"
    names = ("owner/whole@v1", f"owner/whole@{COMMIT}", "owner/whole@v3", "owner/whole@")
    here, tag, commit, wrong, none, read = load(tmp_path, url, str(MODEL), *names)
    assert here == tag == commit
    assert read == {"owner/whole@v1": COMMIT, f"owner/whole@{COMMIT}": COMMIT}
    assert wrong == (
        "owner/whole@v3: neither a folder here nor a model that the hub gives out (it has no "
        "revision 'v3'; its page there lists branches, tags and commits)"
    )
    assert "(no revision after @)" in none


TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tiny import tiny_config
from jaxir.training.retrieval import RETRIEVAL
from jaxir.training.run import run
folder = Path(sys.argv[1])
config = tiny_config(folder, steps=2)
config.model.init, config.model.trained_tokenizer_size = "owner/whole@v1", 0
config.model.max_query_tokens = config.model.max_passage_tokens = 16
config.evaluation.every = 0
run(config, RETRIEVAL, folder / "run")
"""


@pytest.mark.slow  # two processes that import, compile and train
def test_a_run_and_a_report_say_the_revision(hub, tmp_path):
    url = f"http://127.0.0.1:{hub.server_port}"
    here, exported = Path(__file__).parent, ("--output", str(tmp_path / "again"))
    run_python(tmp_path, url, "-c", TRAIN, str(tmp_path), str(here))
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["hub"] == {"owner/whole@v1": COMMIT}
    card = (tmp_path / "run/export/README.md").read_text()
    assert 'base_model: "owner/whole"' in card
    assert f"* From: owner/whole@v1, revision {COMMIT}." in card
    run_python(tmp_path, url, "-m", "jaxir.export", "--model", str(tmp_path / "run"), *exported)
    assert (tmp_path / "again/README.md").read_text() == card
    run_python(tmp_path, url, "-m", "jaxir.export", "--model", "owner/whole@v1", *exported)
    again = (tmp_path / "again/README.md").read_text()
    assert 'base_model: "owner/whole"' in again
    assert f"Read from owner/whole@v1, revision {COMMIT}." in again
    arguments = ("--model", "owner/whole", "--benchmark", "cldr", "--languages", "de,en")
    output = ("--output", str(tmp_path / "out"), "--resamples", "10", "--nobm25")
    run_python(tmp_path, url, "-m", "jaxir.evaluate", *arguments, *output)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["hub"] == {"owner/whole": COMMIT}
