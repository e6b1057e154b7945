"""The scripts in tpu/ against a pretend cloud (fake_gcloud.py) whose workers run commands."""

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "tpu"
FAKE = Path(__file__).parent / "fake_gcloud.py"
NAMES = ["create", "setup", "run", "babysit", "status", "stop", "delete"]
ODD = [
    "--config=tpu_v4.py",
    "--config.a=two words",
    """--config.b=it's "quoted" `here`""",
    "--config.c=$HOME and *",
    "--config.d=first\nsecond\n",
    "--config.e=Ελληνικά, 中文, ไทย",
    "--config.f=back\\slash; true & false | #",
    "",
]
WORKDIR = "gs://some-bucket/runs/tpu_v4"
CONFIG = ["--config", "tpu_v4.py"]
UV = """
echo "$*" >>$FAKE_CLOUD/uv-$FAKE_WORKER
if [ $1 = venv ]; then mkdir -p $4/bin && cp $FAKE_CLOUD/worker-python $4/bin/python
elif [ -e $FAKE_CLOUD/no-jaxir ]; then echo "error: no version of jaxir fits"; exit 1; fi
"""
SECRET = "the-key-nobody-may-see"
TIMEOUT = 600  # of what hangs; a machine may be slow


class Slice:
    """A pretend cloud in a folder, and the scripts called with it."""

    def __init__(self, folder, template=None):
        self.folder = folder
        self.template = template
        self.started = []
        for name in ("bin", "worker-bin", "tmp"):
            (folder / name).mkdir()
        program = (
            f"import sys; sys.path.append({str(FAKE.parent)!r}); import {FAKE.stem} as f; f.main()"
        )
        fake = f'{sys.executable} -I -S -c "{program}"'
        self._program("bin/gcloud", f'exec {fake} gcloud "$@"')
        self._program("bin/sleep", 'echo "$1" >>"$FAKE_CLOUD/sleeps"; exec /bin/sleep 0.02')
        self._program("worker-bin/uv", UV)
        self._program("worker-python", f'exec {fake} python "$@"')
        self.source = folder / "source"
        if template:
            shutil.copytree(template / "source", self.source)
        else:
            self._make_source()
        self.environment = {
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "HOME": str(folder),
            "TMPDIR": str(folder / "tmp"),
            "FAKE_CLOUD": str(folder),
            "JAXIR_TPU_PROJECT": "some-project",
            "JAXIR_TPU_BUCKET": "gs://some-bucket",
            "JAXIR_TPU_SOURCE": str(self.source),
            "JAXIR_TPU_TRIES": "3",
        }

    def _make_source(self):
        for name in ("pyproject.toml", "jaxir/train.py", "configs/Größe 1.py", "secret.txt"):
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        (self.source / ".gitignore").write_text("secret.txt\n")
        self._git("init", "-q", "--template=")
        self._git("add", ".")
        (self.source / "configs/new.py").write_text("not committed yet")

    def _program(self, name, text):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def _git(self, *arguments):
        subprocess.run(["git", "-C", self.source, *arguments], check=True)

    def set(self, **values):
        """Change settings of the cloud."""
        path = self.folder / "cloud.json"
        state = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(state | values))

    def start(self, script, *arguments, **options):
        """A script that is running, a process group of its own, as in a terminal."""
        process = subprocess.Popen(
            [SCRIPTS / f"{script}.sh", *arguments],
            env=self.environment,
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )
        self.started.append(process)
        return process

    def end(self):
        """End all that a test that failed left running."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            with process:
                pass
        for row in self.rows("processes.jsonl"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(row["pid"], signal.SIGKILL)

    def run(self, script, *arguments, status=0, **settings):
        """A script's output and messages, after its status was checked."""
        self.environment |= {f"JAXIR_TPU_{name}": value for name, value in settings.items()}
        process = self.start(script, *arguments)
        out, messages = process.communicate(timeout=TIMEOUT)
        assert process.returncode == status, out + messages
        if all(process.poll() is not None for process in self.started):
            assert not list((self.folder / "tmp").iterdir())  # they leave nothing behind
        return out, messages

    def prepared(self, **values):
        """Have a slice that is set up, as create.sh and setup.sh do it."""
        shutil.copytree(self.template / "workers", self.folder / "workers")
        self.set(request="ACTIVE", slice="READY", type="v4-32", **values)

    def rows(self, name):
        path = self.folder / name
        return [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []

    def calls(self, *command):
        """Command lines of gcloud that hold these words."""
        lines = [row["argv"] for row in self.rows("calls.jsonl")]
        return [line for line in lines if set(command) <= set(line)]

    def uv(self, worker=0):
        """What uv was asked to do."""
        path = self.folder / f"uv-{worker}"
        return path.read_text().splitlines() if path.exists() else []

    def trained(self, worker=0):
        """What the training was started with, each time."""
        return self.rows(f"trained-{worker}.jsonl")

    def home(self, worker=0):
        return self.folder / "workers" / str(worker) / "jaxir-tpu"

    def log(self, worker=0):
        """The log of the newest run."""
        run = (self.home(worker) / "current").read_text().strip()
        return (self.home(worker) / "runs" / run / "log").read_text()

    def sleeps(self):
        path = self.folder / "sleeps"
        return path.read_text().split() if path.exists() else []

    def forget(self):
        """Drop the calls recorded so far."""
        for name in ("calls.jsonl", "sleeps"):
            (self.folder / name).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Folder of a cloud with a slice that is set up."""
    tpu = Slice(tmp_path_factory.mktemp("template"))
    tpu.run("create")
    tpu.run("setup")
    return tpu.folder


@pytest.fixture
def tpu(tmp_path, template):
    """A pretend cloud without a slice; its processes end with the test."""
    tpu = Slice(tmp_path, template)
    yield tpu
    tpu.end()


def wait_for(ready):
    deadline = time.monotonic() + TIMEOUT
    while not ready():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def end_by(process, send):
    """Messages of a script that a signal ends.

    It is sent until it does: bash sees a signal that arrives just before it waits for a line of the
    log only with the next line, and the pretend training writes no more.
    """
    deadline = time.monotonic() + TIMEOUT
    while True:
        with contextlib.suppress(ProcessLookupError):
            send()
        try:
            return process.communicate(timeout=1)[1]
        except subprocess.TimeoutExpired:
            assert time.monotonic() < deadline


def one_line(messages, *parts):
    lines = messages.splitlines()
    assert len(lines) == 1, messages
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


# ---- all scripts ---------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    scripts = sorted(SCRIPTS.glob("*.sh"))
    assert len(scripts) == len(NAMES) + 3
    names = "\n".join(map(str, scripts))
    command = ["xargs", "-P", "2", "-n", "3", "shellcheck", "-x"]
    subprocess.run(command, input=names, text=True, check=True)


@pytest.mark.parametrize("script", NAMES)
def test_help_is_the_comment_at_the_head(tpu, script):
    tpu.environment = {"PATH": "/usr/bin:/bin"}
    out, messages = tpu.run(script, "--help")
    assert out.startswith(f"Usage: tpu/{script}.sh")
    assert len(out.splitlines()) > 3
    assert "#" not in out
    assert messages == ""


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"PROJECT": ""}, ["JAXIR_TPU_PROJECT is missing", "export JAXIR_TPU_PROJECT="]),
        ({"BUCKET": ""}, ["JAXIR_TPU_BUCKET is missing", "export JAXIR_TPU_BUCKET="]),
        ({"BUCKET": "some-bucket"}, ["JAXIR_TPU_BUCKET=some-bucket", "gs://BUCKET"]),
        ({"TYPE": "v9-8"}, ["JAXIR_TPU_TYPE=v9-8", "v4-N", "v5litepod-N", "v5p-N", "v6e-N"]),
        ({"TYPE": "v4"}, ["JAXIR_TPU_TYPE=v4"]),
        ({"SPOT": "maybe"}, ["JAXIR_TPU_SPOT=maybe", "yes nor no"]),
        ({"NAME": "My Slice"}, ["JAXIR_TPU_NAME=My Slice"]),
        ({"POLL": "soon"}, ["JAXIR_TPU_POLL=soon"]),
        ({"SECRETS": "/no/such/file"}, ["JAXIR_TPU_SECRETS=/no/such/file"]),
    ],
)
def test_a_wrong_setting_is_one_line(tpu, settings, parts):
    _, messages = tpu.run("run", *CONFIG, status=2, **settings)
    one_line(messages, *parts)
    assert not tpu.calls()


def test_a_wrong_line_of_the_secrets_is_named_but_not_shown(tpu):
    secrets = tpu.folder / "secrets"
    secrets.write_text(f"# keys\n\nHF_TOKEN=abc\n{SECRET}\n")
    _, messages = tpu.run("setup", status=2, SECRETS=str(secrets))
    one_line(messages, f"{secrets}, line 4")
    assert SECRET not in messages


@pytest.mark.parametrize("source", ["/no/such/folder", "tmp"])
def test_a_source_that_is_none_is_one_line(tpu, source):
    tpu.prepared()
    _, messages = tpu.run("setup", status=2, SOURCE=str(tpu.folder / source))
    one_line(messages, "JAXIR_TPU_SOURCE=")


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("create", ["--spot"]), ("delete", ["--force"]), ("status", ["many"]), ("run", ["--steps=1"])],
)
def test_a_wrong_argument_is_one_line(tpu, script, arguments):
    _, messages = tpu.run(script, *arguments, status=2)
    one_line(messages)
    assert not tpu.calls()


def test_without_gcloud(tpu):
    (tpu.folder / "bin/gcloud").unlink()
    for name in ("env", "bash", "dirname"):  # without what the machine may have
        (tpu.folder / "bin" / name).symlink_to(shutil.which(name))
    tpu.environment["PATH"] = str(tpu.folder / "bin")
    one_line(tpu.run("create", status=2)[1], "gcloud", "install")


# ---- create --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "accelerator", "runtime"),
    [
        ("v4-32", "v4-32", "tpu-ubuntu2204-base"),
        ("v5litepod-16", "v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5e-16", "v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v5p-8", "v2-alpha-tpuv5"),
        ("v6e-4", "v6e-4", "v2-alpha-tpuv6e"),
    ],
)
def test_the_type_decides_the_runtime_version(tpu, kind, accelerator, runtime):
    tpu.set(quota="none")
    tpu.run("create", TYPE=kind, status=1)
    [call] = tpu.calls("create")
    assert f"--accelerator-type={accelerator}" in call
    assert f"--runtime-version={runtime}" in call
    assert "--spot" in call


def test_create_on_demand_with_flags_of_the_users_own(tpu):
    tpu.set(quota="none")
    tpu.run(
        "create",
        status=1,
        SPOT="no",
        ZONE="here-b",
        NAME="mine",
        CREATE_FLAGS="--network=n --quiet",
    )
    [call] = tpu.calls("create")
    assert call[:5] == ["compute", "tpus", "queued-resources", "create", "mine"]
    assert {"--node-id=mine", "--zone=here-b", "--network=n"} <= set(call)
    assert "--spot" not in call


def test_create_waits_and_a_second_time_does_nothing(tpu):
    queue = [["WAITING_FOR_RESOURCES", None]] * 3
    tpu.set(creations=[[*queue, ["PROVISIONING", "CREATING"], ["ACTIVE", "READY"]]])
    _, messages = tpu.run("create")
    assert messages.count("in the queue until a spot v4-32 is free in us-central2-b") == 1
    assert "PROVISIONING" in messages
    assert "jaxir is READY" in messages
    assert tpu.sleeps() == ["30"] * 4
    tpu.forget()
    _, messages = tpu.run("create")
    assert "jaxir is READY" in messages
    assert not tpu.calls("create")
    assert not tpu.calls("delete")


def test_create_waits_for_a_request_that_is_there(tpu):
    tpu.set(
        request="PROVISIONING", type="v4-8", coming=[["PROVISIONING", None], ["ACTIVE", "READY"]]
    )
    tpu.run("create", TYPE="v4-8")
    assert not tpu.calls("create")


def test_without_quota_the_clouds_own_words(tpu):
    words = "RESOURCE_EXHAUSTED: Quota limit 'TPUV4s' has been exceeded. Limit: 0 in zone."
    tpu.set(quota=words)
    _, messages = tpu.run("create", status=1)
    assert messages.splitlines()[1:] == [f"error: {words}"]


def test_a_request_that_fails_is_not_asked_for_again(tpu):
    tpu.set(creations=[[["FAILED", None]]])
    _, messages = tpu.run("create", status=1)
    assert "failed: no such thing in this zone" in messages.splitlines()[-1]
    assert len(tpu.calls("create")) == 1


@pytest.mark.parametrize(
    ("request_state", "slice_state"),
    [
        ("FAILED", None),
        ("SUSPENDED", "PREEMPTED"),
        ("ACTIVE", "TERMINATED"),
        ("ACTIVE", None),
        (None, "PREEMPTED"),
    ],
)
def test_what_is_left_of_an_earlier_slice_is_replaced(tpu, request_state, slice_state):
    tpu.set(request=request_state, slice=slice_state, type="v4-32")
    tpu.run("create")
    assert len(tpu.calls("delete")) == 1
    assert len(tpu.calls("create")) == 1


def test_preempted_while_it_comes_up(tpu):
    taken = [["PROVISIONING", "CREATING"], ["SUSPENDING", "PREEMPTED"], ["SUSPENDED", None]]
    tpu.set(creations=[taken, [["ACTIVE", "READY"]]])
    _, messages = tpu.run("create")
    assert "taken back" in messages
    assert len(tpu.calls("create")) == 2
    assert len(tpu.calls("delete", "--force")) == 1


def test_preempted_each_time_it_comes_up(tpu):
    tpu.set(creations=[[["SUSPENDED", None]]])
    _, messages = tpu.run("create", status=1)
    assert "third time" in messages.splitlines()[-1]
    assert len(tpu.calls("create")) == 3


def test_create_gives_up_waiting_but_leaves_the_request(tpu):
    tpu.set(creations=[[["WAITING_FOR_RESOURCES", None]]])
    _, messages = tpu.run("create", status=1, WAIT_LIMIT="1")
    assert "JAXIR_TPU_WAIT_LIMIT" in messages.splitlines()[-1]
    assert not tpu.calls("delete")


def test_a_slice_of_another_type_is_not_taken(tpu):
    tpu.run("create", TYPE="v4-8")
    _, messages = tpu.run("create", status=2, TYPE="v4-32")
    one_line(messages, "v4-8, not a v4-32")


def test_a_question_without_an_answer_is_asked_again(tpu):
    tpu.set(silent=2)
    tpu.run("create")
    tpu.set(silent=3)
    _, messages = tpu.run("create", status=1)
    assert messages.splitlines()[-1].startswith("error: UNAVAILABLE")


@pytest.mark.parametrize(
    "answer",
    [
        "You have no active account.\nPlease run:\n\n  $ gcloud auth login",
        "PERMISSION_DENIED: Permission 'tpu.nodes.get' denied",
    ],
)
@pytest.mark.parametrize(("script", "arguments"), [("create", []), ("babysit", CONFIG)])
def test_an_answer_that_stays_the_same_is_not_waited_for(tpu, script, arguments, answer):
    tpu.set(silent=99, answer=answer)
    _, messages = tpu.run(script, *arguments, status=2)
    assert "error: " + " ".join(answer.split()) in messages.splitlines()
    assert not tpu.sleeps()


# ---- setup ---------------------------------------------------------------------------------------


def test_setup_installs_on_all_workers_once(tpu):
    secrets = tpu.folder / "secrets"
    secrets.write_text(f"WANDB_API_KEY={SECRET}\n")
    tpu.environment["JAXIR_TPU_SECRETS"] = str(secrets)
    tpu.run("create")
    tpu.run("setup")
    for worker in range(2):
        home = tpu.home(worker)
        assert tpu.uv(worker) == [
            "venv --python 3.12 env",
            f"pip install --python env/bin/python -e {home}/source[tpu]",
        ]
        files = {str(path.relative_to(home / "source")) for path in (home / "source").rglob("*.*")}
        assert files == {
            ".gitignore",
            "pyproject.toml",
            "jaxir/train.py",
            "configs/Größe 1.py",
            "configs/new.py",
        }
        assert (home / "secrets").read_text() == secrets.read_text()
        assert (home / "secrets").stat().st_mode & 0o777 == 0o600
        assert home.stat().st_mode & 0o777 == 0o700
        assert not (home / "incoming/secrets").exists()
    assert SECRET not in (tpu.folder / "calls.jsonl").read_text()

    tpu.forget()
    _, messages = tpu.run("setup")
    assert "have this source" in messages
    assert not tpu.calls("scp")
    assert len(tpu.uv()) == 2

    (tpu.source / "jaxir/train.py").write_text("changed")
    tpu.run("setup", SECRETS="")
    assert (tpu.home(1) / "source/jaxir/train.py").read_text() == "changed"
    assert not (tpu.home(1) / "secrets").exists()
    assert len(tpu.uv(1)) == 3  # the environment was there


def test_setup_leaves_alone_the_worker_that_has_it(tpu):
    tpu.prepared()
    (tpu.home(1) / "installed").unlink()
    _, messages = tpu.run("setup")
    assert "worker 0: already installed" in messages
    assert "worker 1: installed in" in messages
    assert [len(tpu.uv(worker)) for worker in range(2)] == [0, 1]


def test_setup_of_a_pip_requirement_where_uv_is_missing(tpu):
    bin_folder = tpu.folder / "worker-bin"
    (bin_folder / "uv").rename(tpu.folder / "uv")
    text = f"mkdir -p ~/.local/bin && cp {tpu.folder}/uv ~/.local/bin/uv"
    tpu._program("worker-bin/curl", f"echo $* >~/curl.log; echo '{text}'")
    tpu.environment["JAXIR_TPU_SOURCE"] = "jaxir[tpu,wandb]==0.1.0"
    tpu.run("create")
    tpu.run("setup")
    assert tpu.uv(1)[-1] == "pip install --python env/bin/python jaxir[tpu,wandb]==0.1.0"
    curl = (tpu.home(1).parent / "curl.log").read_text()
    assert curl == "-LsSf https://astral.sh/uv/install.sh\n"
    assert not (tpu.home(1) / "source").exists()


def test_an_installation_that_fails_shows_why(tpu):
    (tpu.folder / "no-jaxir").touch()
    tpu.run("create")
    _, messages = tpu.run("setup", status=1)
    assert "worker 1: | error: no version of jaxir fits" in messages
    assert messages.splitlines()[-1].startswith("error: ")
    (tpu.folder / "no-jaxir").unlink()
    assert "installed on all workers" in tpu.run("setup")[1]


def test_ssh_that_is_refused_is_tried_again_up_to_a_limit(tpu):
    tpu.run("create")
    tpu.set(refuse=2)
    _, messages = tpu.run("setup")
    assert messages.count("Connection refused") == 2
    tpu.set(refuse=3)
    _, messages = tpu.run("setup", status=75)
    assert "READY but gives no connection" in messages.splitlines()[-1]


@pytest.mark.parametrize(
    ("script", "arguments", "slice_state", "word"),
    [
        ("setup", [], None, "GONE"),
        ("run", CONFIG, "PREEMPTED", "PREEMPTED"),
        ("stop", [], "STOPPED", "STOPPED"),
    ],
)
def test_a_slice_that_is_not_there(tpu, script, arguments, slice_state, word):
    tpu.set(slice=slice_state)
    _, messages = tpu.run(script, *arguments, status=75)
    one_line(messages, f"slice jaxir is {word}", "tpu/create.sh")
    assert not tpu.sleeps()


# ---- run -----------------------------------------------------------------------------------------


def test_arguments_arrive_unchanged_on_every_worker(tpu):
    secrets = tpu.folder / "secrets"
    secrets.write_text(f"# for the reports\nHF_TOKEN=x y\nWANDB_API_KEY={SECRET}=$HOME")
    tpu.environment["JAXIR_TPU_SECRETS"] = str(secrets)
    tpu.run("create")
    tpu.run("setup")
    out, messages = tpu.run("run", *ODD)
    expected = ["-m", "jaxir.train", *ODD, "--distributed", "--workdir", WORKDIR]
    for worker in range(2):
        [row] = tpu.trained(worker)
        assert row["argv"] == expected
        assert row["key"] == f"{SECRET}=$HOME"
        assert row["cwd"] == str(tpu.home(worker) / "source")
    assert out == "".join(f"start 0 step {line}\n" for line in range(3))
    assert "finished" in messages
    assert "note:" not in messages
    assert SECRET not in (tpu.folder / "calls.jsonl").read_text()


def test_a_workdir_of_the_users_own(tpu):
    tpu.prepared()
    arguments = [*CONFIG, "--workdir", "gs://o/x"]
    tpu.run("run", *arguments, BUCKET="")
    assert tpu.trained()[0]["argv"][2:] == [*arguments, "--distributed"]


def test_the_name_of_the_run(tpu):
    tpu.prepared()
    tpu.run("run", "--config=configs/x.py", BUCKET="gs://b/me/", RUN="second")
    assert tpu.trained()[0]["argv"][-1] == "gs://b/me/runs/second"


def test_run_ends_as_worker_0_and_tells_of_a_worse_one(tpu):
    tpu.prepared(
        trainings=[{"lines": 1, "status": 0, "statuses": {"1": 9}}, {"lines": 1, "status": 7}]
    )
    # a worker that is slow to end is asked about again
    _, messages = tpu.run("run", *CONFIG, TRIES="1000")
    assert "warning: ended with 9 on worker 1" in messages
    out, messages = tpu.run("run", *CONFIG, status=7)
    assert out == "start 1 step 0\n"  # nothing of the run before
    assert "status 7" in messages
    assert "warning" not in messages


def test_run_needs_an_installation(tpu):
    tpu.run("create")
    one_line(tpu.run("run", *CONFIG, status=2)[1], "tpu/setup.sh")


def test_run_tells_of_an_older_source(tpu):
    tpu.prepared()
    (tpu.source / "jaxir/train.py").write_text("changed")
    assert "note: the workers have an older source" in tpu.run("run", *CONFIG)[1]


def test_a_session(tpu):
    tpu.prepared(trainings=[{"lines": 2, "status": 0, "wait": True}])
    assert "no training was started" in tpu.run("status")[0]
    one_line(tpu.run("run", status=2)[1], "no training is running")

    # Ctrl-C ends the showing
    shown = tpu.start("run", *CONFIG)
    assert shown.stdout.readline() == "start 0 step 0\n"
    assert shown.stdout.readline() == "start 0 step 1\n"
    messages = end_by(shown, lambda: os.killpg(shown.pid, signal.SIGINT))
    assert shown.returncode == 130
    for script in ("run", "status", "stop"):
        assert f"tpu/{script}.sh" in messages.splitlines()[-1]

    # so does the end of the terminal; no connection stays behind
    shown = tpu.start("run")
    assert shown.stdout.readline() == "start 0 step 0\n"
    assert shown.stdout.readline() == "start 0 step 1\n"
    end_by(shown, lambda: shown.send_signal(signal.SIGHUP))
    connection = tpu.rows("calls.jsonl")[-1]["pid"]
    wait_for(lambda: not Path(f"/proc/{connection}").exists())

    wait_for(lambda: all("step 1" in tpu.log(worker) for worker in range(2)))
    out, _ = tpu.run("status", "1")
    assert out.splitlines()[:2] == [
        "request jaxir (spot v4-32 in us-central2-b): ACTIVE",
        "slice jaxir: READY",
    ]
    for worker in range(2):
        lines = [line for line in out.splitlines() if line.startswith(f"worker {worker}: ")]
        assert lines[0].endswith("is running")
        assert lines[1:] == [f"worker {worker}: | start 0 step 1"]

    # nothing changes under a training that is running
    (tpu.source / "jaxir/train.py").write_text("changed")
    assert "training is running, so nothing was installed" in tpu.run("setup", status=1)[1]
    assert (tpu.home() / "source/jaxir/train.py").read_text() != "changed"
    one_line(tpu.run("run", *CONFIG, "--config.steps=1", status=2)[1], "another training")

    # the same command, and the one without arguments, come back to it
    shown = [tpu.start("run", *CONFIG), tpu.start("run")]
    for process in shown:
        assert process.stdout.readline() == "start 0 step 0\n"
        assert process.stdout.readline() == "start 0 step 1\n"
    _, messages = tpu.run("stop")
    assert "worker 1: SIGTERM sent" in messages
    assert "stopped with status 143" in messages
    for process in shown:
        out, messages = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 143
        assert out == "saved\n"
        assert "already running" in messages
    assert [len(tpu.trained(worker)) for worker in range(2)] == [1, 1]
    assert "was stopped, with status 143" in tpu.run("status")[0]
    assert "no training is running" in tpu.run("stop")[1]


def test_what_is_left_of_an_older_run_is_ended_first(tpu):
    tpu.prepared(trainings=[{"lines": 1, "status": 0, "wait": True}, {"lines": 1, "status": 0}])
    shown = tpu.start("run", *CONFIG)
    wait_for(lambda: tpu.trained(0) and tpu.trained(1))
    # worker 0 breaks down, worker 1 goes on waiting for it
    pid = int((tpu.home() / "runs").glob("*/process").__next__().read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    _, messages = shown.communicate(timeout=TIMEOUT)
    assert shown.returncode == 137
    assert "still running on worker 1" in messages
    _, messages = tpu.run("run", *CONFIG)
    assert "worker 1 still has an older run" in messages
    assert [len(tpu.trained(worker)) for worker in range(2)] == [2, 2]


@pytest.mark.parametrize("then", ["lost", "again"])
def test_a_lost_connection_shows_each_line_once(tpu, then):
    tpu.prepared(trainings=[{"lines": 5, "status": 0}], breaks=[[2, then], [1, then], [0, then]])
    out, messages = tpu.run("run", *CONFIG)
    assert out == "".join(f"start 0 step {line}\n" for line in range(5))
    assert messages.count("connection lost") == {"lost": 3, "again": 0}[then]
    assert len(tpu.trained()) == 1


def test_connections_that_are_lost_too_often(tpu):
    tpu.prepared(trainings=[{"lines": 5, "status": 0}], breaks=[[2, "lost"]] + [[0, "lost"]] * 9)
    _, messages = tpu.run("run", *CONFIG, status=75)
    assert "READY but gives no connection: client_loop" in messages.splitlines()[-1]
    assert messages.count("connection lost") == 2


def test_ssh_that_fails_starts_the_training_once(tpu):
    tpu.prepared(refuse=1, unheard=1)
    _, messages = tpu.run("run", *CONFIG)
    assert messages.count("no connection to slice jaxir yet") == 2
    assert [len(tpu.trained(worker)) for worker in range(2)] == [1, 1]


# ---- babysit -------------------------------------------------------------------------------------


def test_babysit_from_nothing_through_preemptions_to_the_end(tpu):
    checkpoint = "some-bucket/runs/tpu_v4/checkpoints/500"
    tpu.set(
        trainings=[
            {"lines": 2, "status": 0, "wait": True, "checkpoint": checkpoint},
            {"lines": 2, "status": 0, "wait": True},
            {"lines": 2, "status": 0},
        ],
        breaks=[[1, "preempted"], [2, "preempted"]],
        after_preemption=["SUSPENDED", "PREEMPTED"],
    )
    _, messages = tpu.run("babysit", *ODD)
    assert len(tpu.calls("queued-resources", "create")) == 3
    for worker in range(2):
        assert [row["argv"][2:-3] for row in tpu.trained(worker)] == [ODD] * 3
    assert messages.count("after a new checkpoint") == 1
    assert messages.count("without a new checkpoint (1 of 5)") == 1
    assert messages.splitlines()[-2].endswith(f"the training finished; its results: {WORKDIR}")


def test_babysit_stops_at_a_mistake_of_the_user(tpu):
    tpu.prepared(trainings=[{"lines": 1, "status": 2}])
    _, messages = tpu.run("babysit", *CONFIG, status=2)
    assert len(tpu.trained()) == 1
    assert messages.splitlines()[-1].startswith("error: a mistake")
    one_line(tpu.run("babysit", status=2)[1], "--config is missing")


def test_babysit_gives_up_without_progress(tpu):
    (tpu.folder / "bucket/some-bucket/runs/tpu_v4/checkpoints/100").mkdir(parents=True)
    # a bucket that does not answer is no progress either
    tpu.prepared(trainings=[{"lines": 1, "status": 9}], storage_answers=2)
    _, messages = tpu.run("babysit", *CONFIG, status=9, ATTEMPTS="3", BACKOFF_LIMIT="50")
    assert len(tpu.trained()) == 3
    assert tpu.sleeps() == ["30", "50"]
    assert "JAXIR_TPU_ATTEMPTS" in messages.splitlines()[-1]


def test_babysit_asks_again_where_there_is_no_quota(tpu):
    tpu.set(quota="RESOURCE_EXHAUSTED: no quota")
    _, messages = tpu.run("babysit", *CONFIG, status=1, ATTEMPTS="2")
    assert messages.count("error: RESOURCE_EXHAUSTED: no quota") == 2


def test_babysit_goes_on_after_a_sigterm_but_not_after_stop(tpu):
    waiting = {"lines": 1, "status": 0, "wait": True}
    tpu.prepared(trainings=[{"lines": 1, "status": 143}, waiting])
    process = tpu.start("babysit", *CONFIG)
    assert process.stdout.readline() == "start 0 step 0\n"
    assert process.stdout.readline() == "start 1 step 0\n"

    # Ctrl-C ends only the looking after; a second one comes back to the training
    messages = end_by(process, lambda: os.killpg(process.pid, signal.SIGINT))
    assert process.returncode == 130
    assert "nobody looks after" in messages.splitlines()[-1]
    process = tpu.start("babysit", *CONFIG)
    assert process.stdout.readline() == "start 1 step 0\n"
    tpu.run("stop")
    _, messages = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 143, messages
    assert "already running" in messages
    assert "stopped by tpu/stop.sh" in messages.splitlines()[-1]
    assert len(tpu.trained()) == 2


def test_babysit_warns_of_checkpoints_that_vanish(tpu):
    tpu.set(quota="none")
    arguments = [*CONFIG, "--workdir=here"]
    _, messages = tpu.run("babysit", *arguments, status=1, ATTEMPTS="1")
    assert "here/checkpoints vanish" in messages
    arguments += ["--config.checkpoint.directory=gs://some-bucket/c"]
    _, messages = tpu.run("babysit", *arguments, status=1)
    assert "vanish" not in messages
    assert tpu.calls("storage", "gs://some-bucket/c/here/")


# ---- status, delete ------------------------------------------------------------------------------


def test_status_without_a_slice_or_an_installation(tpu):
    assert tpu.run("status")[0].splitlines()[-1] == "slice jaxir: GONE"
    tpu.run("create")
    assert "tpu/setup.sh" in tpu.run("status")[0]


def test_delete_and_delete_again(tpu):
    tpu.prepared()
    one_line(tpu.run("delete", status=2)[1], "--yes")
    _, messages = tpu.run("delete", "--yes")
    assert "checkpoints in gs://some-bucket stay" in messages
    [call] = tpu.calls("delete")
    assert "--force" in call
    assert "nothing to delete" in tpu.run("delete", "--yes")[1]
    assert len(tpu.calls("delete")) == 1


def test_delete_of_a_slice_without_a_request(tpu):
    tpu.set(slice="READY")
    tpu.run("delete", "--yes")
    [call] = tpu.calls("delete")
    assert call[2:5] == ["tpu-vm", "delete", "jaxir"]


@pytest.mark.parametrize(("answer", "deleted"), [("y", True), ("", False)])
def test_delete_asks(tpu, answer, deleted):
    tpu.set(request="ACTIVE", slice="READY")
    ours, theirs = pty.openpty()
    with open(ours, "w") as terminal, open(theirs) as stdin:
        process = tpu.start("delete", stdin=stdin)
        terminal.write(f"{answer}\n")
        terminal.flush()
        _, messages = process.communicate(timeout=TIMEOUT)
    assert process.returncode == (0 if deleted else 1)
    assert "Delete slice jaxir (request ACTIVE, slice READY)? [y/N]" in messages
    assert len(tpu.calls("delete")) == deleted
