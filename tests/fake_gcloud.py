"""A pretend cloud for the scripts in tpu/: `gcloud`, and on each worker `python`.

Everything lies in the folder $FAKE_CLOUD: cloud.json (states and what shall go wrong, see
`Cloud.DEFAULTS`), calls.jsonl (the command lines of gcloud), workers/N (home folders), bucket/. The
commands of `tpu-vm ssh` are really run, by bash, in the worker's home folder.

A test makes hundreds of calls and most of their time goes into imports, so there are few: JSON is
written by a few lines here, and read by eval.
"""

import fcntl
import os
import sys
from _json import encode_basestring_ascii

FOLDER = os.environ.get("FAKE_CLOUD", ".")
FLAGS = {  # as in the reference of gcloud
    "queued-resources create": "--node-id --accelerator-type --runtime-version --spot --network",
    "queued-resources describe": "--format",
    "queued-resources delete": "--force",
    "tpu-vm describe": "--format",
    "tpu-vm delete": "",
    "tpu-vm ssh": "--worker --command --ssh-flag",
    "tpu-vm scp": "--worker --recurse --scp-flag",
}


class Cloud(dict):
    """The state of the cloud, a dict kept in a file, for one process at a time."""

    DEFAULTS = {  # noqa: RUF012
        "request": None,  # state of the queued resource, None where there is none
        "slice": None,
        "type": None,
        "hosts": 2,
        "quota": None,  # what `create` says instead of creating
        # for each creation (the last one for all later) the states seen one after the other
        "creations": [[["ACTIVE", "READY"]]],
        "coming": [],
        "silent": 0,  # so many questions get no answer
        "answer": "UNAVAILABLE: The service is currently unavailable.",  # but this error
        "storage_answers": 1000,  # then there are none
        "unheard": 0,  # so many starts of the training are lost on the way back
        "refuse": 0,  # so many connections are refused
        # for each showing of the log: None, or [lines after which it breaks off, what then]
        "breaks": [],
        "after_preemption": ["SUSPENDED", "PREEMPTED"],
        # for each start of the training (the last one for all later) how it goes
        "trainings": [{"lines": 3, "status": 0}],
    }

    def __enter__(self):
        self.lock = open(path_of("lock"), "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.update(Cloud.DEFAULTS | from_json(read("cloud.json") or "{}"))
        return self

    def __exit__(self, *_):
        with open(path_of("cloud.json"), "w") as file:
            file.write(to_json(self))
        self.lock.close()

    def next_of(self, key, number):
        """Entry of that number, or the last one."""
        return self[key][min(number, len(self[key]) - 1)]


def path_of(*names):
    """A path in the folder of the cloud."""
    return os.path.join(FOLDER, *names)


def read(name):
    """A file's text, "" where there is none."""
    try:
        with open(path_of(name)) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def remove(name):
    """Remove a folder with all that it holds."""
    os.system(f"rm -rf '{path_of(name)}'")


def to_json(value):
    """JSON of dicts, lists, strings, whole numbers, booleans and None."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{to_json(key)}: {to_json(value[key])}" for key in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_json, value)) + "]"
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    # 1 == True, so not by a dict
    return "null" if value is None else str(value).lower()


def from_json(text):
    """The other way."""
    return eval(text, {"null": None, "true": True, "false": False})


def record(name, **row):
    """Append a row to a file of JSON lines."""
    with open(path_of(name), "a") as file:
        file.write(to_json(row) + "\n")


def rows(name):
    """All rows of such a file."""
    return [from_json(line) for line in read(name).splitlines()]


def fail(status, *lines):
    """End with what gcloud would say."""
    print(*lines, sep="\n", file=sys.stderr)
    sys.exit(status)


def kill(function, number):
    """End a process or group, if there is one."""
    try:
        function(number, 9)
    except ProcessLookupError:
        return


def kill_trainings():
    """End all that still trains, as a machine that goes away does."""
    for row in rows("processes.jsonl"):
        kill(os.kill, row["pid"])
    remove("processes.jsonl")


def preempt(state):
    """The slice is taken back, with all that its disks hold."""
    kill_trainings()
    remove("workers")
    state["request"], state["slice"] = state["after_preemption"]
    state["coming"] = []


def come(state):
    """The next state of a slice that was asked for."""
    if state["coming"]:
        state["request"], state["slice"] = state["coming"].pop(0)
        if state["slice"] == "READY" and not os.path.exists(path_of("workers")):
            for worker in range(state["hosts"]):
                os.makedirs(path_of("workers", str(worker)))


def read_flags(command, arguments):
    """Flags (the last of each name) and other arguments."""
    flags, words = {}, []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if not argument.startswith("--"):
            words.append(argument)
        elif name not in f"{FLAGS[command]} --project --zone --quiet".split():
            fail(2, f"ERROR: (gcloud.compute.tpus) unrecognized arguments: {argument}")
        else:
            flags[name] = value
    return flags, words


def gcloud(arguments):
    """Entry point of gcloud."""
    record("calls.jsonl", argv=arguments, pid=os.getpid())
    if arguments[:2] == ["storage", "ls"]:
        with Cloud() as state:
            state["storage_answers"] -= 1
            if state["storage_answers"] < 0:
                fail(1, "ERROR: (gcloud.storage.ls) HTTPError 503: try again later.")
        folder = path_of("bucket", arguments[2].removeprefix("gs://"))
        if not os.path.isdir(folder):
            fail(1, "ERROR: (gcloud.storage.ls) One or more URLs matched no objects.")
        print(*(f"{arguments[2]}{name}/" for name in sorted(os.listdir(folder))), sep="\n")
        return
    assert arguments[:2] == ["compute", "tpus"], arguments
    command = " ".join(arguments[2:4])
    flags, words = read_flags(command, arguments[4:])
    assert flags["--project"] == "some-project", flags
    assert "--quiet" in flags, flags
    where = f"ERROR: (gcloud.compute.tpus.{command.replace(' ', '.')})"
    kind = "request" if command.startswith("queued-resources") else "slice"
    with Cloud() as state:
        if state["silent"] > 0:
            state["silent"] -= 1
            fail_later = [f"{where} {state['answer']}"]
        elif command == "queued-resources create":
            fail_later = create(state, flags, where)
        else:
            if command == "queued-resources describe":
                come(state)
            fail_later = []
            if state[kind] is None:
                fail_later = [
                    f"{where} NOT_FOUND: Resource '{words[0]}' was not found. This command"
                    " is authenticated as somebody@example.com which is the active "
                    "account specified by the [core/account] property.",
                    "- '@type': type.googleapis.com/google.rpc.ResourceInfo",
                ]
    if fail_later:
        fail(1, *fail_later)
    if command.endswith("describe"):
        describe(state, kind, flags["--format"])
    elif command.endswith("delete"):
        with Cloud() as state:
            kill_trainings()
            remove("workers")
            state.update(slice=None, coming=[])
            if kind == "request":
                state["request"] = None
    elif command in ("tpu-vm ssh", "tpu-vm scp"):
        connect(command, flags, words, where)


def create(state, flags, where):
    """Ask for a slice; returns what is wrong with that."""
    if state["quota"]:
        return [f"{where} {state['quota']}", "- '@type': type.googleapis.com/google.rpc.Help"]
    if state["request"] is not None:
        return [f"{where} ALREADY_EXISTS: Resource already exists."]
    number = sum(row["argv"][2:4] == ["queued-resources", "create"] for row in rows("calls.jsonl"))
    state["coming"] = state.next_of("creations", number - 1)
    state["request"], state["slice"] = "ACCEPTED", None
    state["type"] = flags["--accelerator-type"]
    return []


def describe(state, kind, form):
    """One field of a queued resource or slice."""
    fields = {
        "value(state.state)": state["request"],
        "value(state,acceleratorType)": f"{state['slice']}\t{state['type']}",
        "value(state.failedData.error.message)": "no such thing in this zone",
    }
    assert (kind == "request") == ("state." in form), form
    print(fields[form])


def connect(command, flags, words, where):
    """Run ssh or scp."""
    import subprocess

    with Cloud() as state:
        refused = state["refuse"] > 0
        if refused:
            state["refuse"] -= 1
        unheard = " start " in flags.get("--command", "") and state["unheard"] > 0
        if unheard:
            state["unheard"] -= 1
        showing = " follow " in flags.get("--command", "")
        broken = state["breaks"].pop(0) if showing and state["breaks"] and not refused else None
    if state["slice"] != "READY":
        fail(1, f'{where} This TPU has terminal state "{state["slice"]}", so it cannot be used.')
    if refused:
        lost(where, "ssh: connect to host 203.0.113.7 port 22: Connection refused")
    workers = range(state["hosts"]) if flags["--worker"] == "all" else [int(flags["--worker"])]
    if command == "tpu-vm scp":
        for worker in workers:
            folder = path_of("workers", str(worker), words[-1].partition(":")[2])
            subprocess.run(["cp", *words[:-1], folder], check=True)
        return
    if broken:
        break_off(flags["--command"], *broken, where)
    processes = [on_worker(worker, flags["--command"]) for worker in workers]
    statuses = [process.wait() for process in processes]
    for process in processes:  # what is left of the session ends with the connection
        kill(os.killpg, process.pid)
    if unheard:
        lost(where, "client_loop: send disconnect: Broken pipe")
    sys.exit(next((status for status in statuses if status), 0))


def lost(where, reason):
    """A connection that fails, as gcloud reports it."""
    fail(255, reason, f"{where} [/usr/bin/ssh] exited with return code [255].")


def on_worker(worker, command, **options):
    """Start a command in a worker's home folder."""
    import subprocess

    home = path_of("workers", str(worker))
    environment = {
        "HOME": home,
        "PATH": f"{path_of('worker-bin')}:/usr/bin:/bin",
        "FAKE_CLOUD": FOLDER,
        "FAKE_WORKER": str(worker),
        "HOSTNAME": f"t1v-n-0123abcd-w-{worker}",
    }
    return subprocess.Popen(
        ["bash", "-c", command],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        **options,
    )


def break_off(command, lines, then, where):
    """Show so many lines of worker 0, then lose the connection."""
    import subprocess

    with on_worker(0, command, stdout=subprocess.PIPE) as process:
        for _ in range(lines):
            sys.stdout.buffer.write(process.stdout.readline())
        sys.stdout.flush()
        os.killpg(process.pid, 9)
    if then == "again":  # gcloud itself repeats the command
        with on_worker(0, command) as process:
            sys.exit(process.wait())
    if then == "preempted":
        with Cloud() as state:
            preempt(state)
    lost(where, "client_loop: send disconnect: Connection reset by peer")


def python(arguments):
    """Entry point of python on a worker: trains as it was told."""
    import signal
    import time

    name = f"trained-{os.environ['FAKE_WORKER']}.jsonl"
    number = len(rows(name))
    with Cloud() as state:
        record("processes.jsonl", pid=os.getpid())
        how = state.next_of("trainings", number)
    row = {"argv": arguments, "key": os.environ.get("WANDB_API_KEY"), "cwd": os.getcwd()}
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(143))
    record(name, **row)

    def wait_until(ready, seconds):
        for _ in range(seconds * 20):
            if ended or ready():
                break
            time.sleep(0.05)

    def all_started():
        return all(len(rows(f"trained-{i}.jsonl")) > number for i in range(state["hosts"]))

    # processes of a real training meet before the first step as well
    wait_until(all_started, seconds=600)
    for line in range(how["lines"]):
        print(f"start {number} step {line}", flush=True)
    if "checkpoint" in how:
        os.makedirs(path_of("bucket", how["checkpoint"]), exist_ok=True)
    if how.get("wait"):
        wait_until(lambda: False, seconds=600)
    if ended:
        print("saved")
    worker = int(os.environ["FAKE_WORKER"])
    sys.exit(ended[0] if ended else how.get("statuses", {}).get(str(worker), how["status"]))


def main():
    """What the first argument names; imported rather than run, so that it is compiled once."""
    {"gcloud": gcloud, "python": python}[sys.argv[1]](sys.argv[2:])
