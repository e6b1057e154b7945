"""Claims: several processes, on one host or many, divide work by files in a shared folder.

A claim is a small file that only one process can create. Its owner rewrites it at regular
intervals (the heartbeat). If a claim has not changed for some time, its owner has died, and another
process takes over by creating the claim with the next number, which again only one can do. Clocks
are not compared: each process measures for itself how long a claim stays unchanged.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from etils import epath

from jaxir.runtime.files import create, entries, is_remote, writing

EXPIRES = 60.0  # seconds without a sign of life
POLL = 1.0  # seconds between looks at what others are making


class Claims:
    """The claims of this process in one folder; a context manager that releases them."""

    def __init__(self, folder: epath.Path, expires: float = EXPIRES):
        self.folder, self.expires = folder, expires
        self._held: dict[str, epath.Path] = {}
        self._seen: dict[str, tuple[str | None, float]] = {}  # text of a claim, and since when
        self._beats = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, daemon=True)

    def __enter__(self) -> "Claims":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for name in list(self._held):
            self.release(name)

    def take(self, name: str) -> bool:
        """Try to claim a name; True if this process owns it now."""
        if name in self._held:
            return True
        number = 0
        current = self._newest(name)
        if current is not None:
            if not self._expired(current):
                return False
            number = int(current.name.rpartition("-")[2]) + 1
        path = self.folder / f"{name}.claim-{number}"
        if not create(path, self._heartbeat()):
            return False
        with self._lock:
            self._held[name] = path
        return True

    def release(self, name: str) -> None:
        """Release a claim; other processes may take it."""
        with self._lock:
            del self._held[name]
        for path in self._of(name):
            path.unlink(missing_ok=True)

    def _of(self, name: str) -> list[epath.Path]:
        found = [x for x in entries(self.folder) if x.name.startswith(f"{name}.claim-")]
        whole = [path for path in found if path.name.rpartition("-")[2].isdigit()]
        return sorted(whole, key=lambda path: int(path.name.rpartition("-")[2]))

    def _newest(self, name: str) -> epath.Path | None:
        return next(reversed(self._of(name)), None)

    def _heartbeat(self) -> str:
        self._beats += 1
        return f"{socket.gethostname()} {os.getpid()} {self._beats}"

    def _expired(self, path: epath.Path) -> bool:
        try:
            said = path.read_text()
        except OSError:
            return False  # let go of just now
        host, process, *_ = [*said.split(), "", ""]
        same_host = host == socket.gethostname() and not is_remote(self.folder)
        if same_host and process.isdigit() and not Path(f"/proc/{process}").exists():
            return Path("/proc/self").exists()  # where there is no /proc, wait as for other hosts
        before, since = self._seen.get(path.name, (None, 0.0))
        if said != before:
            self._seen[path.name] = (said, time.monotonic())
            return False
        return time.monotonic() - since > self.expires

    def _keep_alive(self) -> None:
        while not self._ended.wait(self.expires / 5):
            with self._lock:
                for path in self._held.values():
                    # a full disk: the next beat tries again, well before the claim expires
                    with suppress(OSError), writing(path) as file:
                        file.write(self._heartbeat())


def make_together(
    paths: Mapping[str, epath.Path],
    make: Callable[[str], None],
    claims: Claims,
    poll: float = POLL,
) -> None:
    """Make each path in one of the processes that call this; return when all exist.

    Args:
        paths: the paths by name; each appears whole or not at all.
        make: makes the path of a name.
        claims: in a folder that all of the processes share.
        poll: seconds between looks at what others are making.
    """
    pending = list(paths)
    while pending:
        waiting = []
        for name in pending:
            if paths[name].exists():
                continue
            if not claims.take(name):
                waiting.append(name)
                continue
            try:
                if not paths[name].exists():
                    make(name)
            finally:
                claims.release(name)
        if waiting == pending:
            time.sleep(poll)
        pending = waiting
