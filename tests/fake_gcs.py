"""A pretend Google Cloud Storage in memory: what gcsfs and tensorstore ask of its JSON API."""

import base64
import hashlib
import itertools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "bucket"  # the only one there is
OBJECTS = ("storage", "v1", "b", BUCKET, "o")


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # decoded, without the query
    query: dict[str, str]
    range: str  # the Range header, or ""
    sent: int  # bytes of an object's contents in the answer


@dataclass(frozen=True)
class Object:
    data: bytes
    generation: int
    updated: str


class FakeGCS(ThreadingHTTPServer):
    """Objects by name, and what was asked so far."""

    daemon_threads = True
    block_on_close = False  # the threads wait for the next request of clients that are kept alive
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.Lock()
        self.objects: dict[str, Object] = {}
        self.requests: list[Request] = []
        self.uploads: dict[str, tuple[str, dict[str, str], bytearray]] = {}  # resumable ones
        self.page = 1000  # entries of a listing's page
        self.refusal = 0  # the status of every answer; 0: what is right
        self.numbers = itertools.count(1)

    @property
    def environment(self) -> dict[str, str]:
        """What leads gcsfs and tensorstore here."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "FSSPEC_GCS_TOKEN": "anon",
            # otherwise gcsfs asks the true cloud by gRPC what kind of bucket this is
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "EPATH_USE_TF": "false",
        }

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that were killed, or closed what they had kept open."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def names(self, prefix: str = "") -> list[str]:
        """Names of the objects, sorted."""
        with self.lock:
            return sorted(name for name in self.objects if name.startswith(prefix))

    def put(self, name: str, data: bytes, query: dict[str, str] | None = None) -> dict | None:
        """An object's new generation; None where a precondition fails."""
        with self.lock:
            if not _allowed(self.objects.get(name), query or {}):
                return None
            now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
            self.objects[name] = Object(data, next(self.numbers), now)
            return _metadata(name, self.objects[name])


@contextmanager
def serving() -> Iterator[FakeGCS]:
    """A server in a thread of its own, with nothing in its bucket."""
    with FakeGCS() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _allowed(found: Object | None, query: dict[str, str]) -> bool:
    wanted = query.get("ifGenerationMatch")
    return wanted is None or int(wanted) == (found.generation if found else 0)


def _metadata(name: str, found: Object) -> dict:
    return {
        "kind": "storage#object",
        "name": name,
        "bucket": BUCKET,
        "size": str(len(found.data)),
        "generation": str(found.generation),
        "metageneration": "1",
        "md5Hash": base64.b64encode(hashlib.md5(found.data).digest()).decode(),
        "timeCreated": found.updated,
        "updated": found.updated,
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # clients keep connections
    disable_nagle_algorithm = True
    wbufsize = -1
    server: FakeGCS

    def log_message(self, *_: object) -> None:
        """Nothing: standard error is the tests'."""

    def do_GET(self) -> None:
        parts = self._parts
        if parts == list(OBJECTS[:-1]):
            self._answer(200, {"kind": "storage#bucket", "name": BUCKET})
        elif parts == list(OBJECTS):
            self._answer(200, self._listing())
        elif (found := self._found()) is None:
            self._refuse(404)
        elif not _allowed(found, self._query):
            self._refuse(412)
        elif self._query.get("ifGenerationNotMatch") == str(found.generation):
            self._answer(304)
        elif self._query.get("alt") == "media":
            self._send_data(found)
        else:
            self._answer(200, _metadata(parts[-1], found))

    def do_DELETE(self) -> None:
        upload = self._query.get("upload_id")
        if upload:
            self.server.uploads.pop(upload, None)
            self._answer(499)
            return
        with self.server.lock:
            found = self._found()
            allowed = _allowed(found, self._query)
            if found and allowed:
                del self.server.objects[self._parts[-1]]
        if found and allowed:
            self._answer(204)
        else:
            self._refuse(404 if allowed else 412)

    def do_POST(self) -> None:
        if self._parts[0] == "upload":
            self._upload()
        elif (copy := re.search(r"/o/([^/]+)/(rewrite|copy)To/b/[^/]+/o/([^/]+)$", self._raw)) and (
            found := self.server.objects.get(unquote(copy[1]))
        ):
            target = self.server.put(unquote(copy[3]), found.data, self._query)
            rewritten = {"kind": "storage#rewriteResponse", "done": True, "resource": target}
            self._stored(rewritten if target and copy[2] == "rewrite" else target)
        else:
            self._refuse(404)

    do_PUT = do_POST  # noqa: N815

    def parse_request(self) -> bool:
        """Read the request to its end: what is left would be taken for the next one."""
        if not super().parse_request():
            return False
        address = urlsplit(self.path)
        self._raw = address.path
        self._parts = [unquote(part) for part in address.path.strip("/").split("/")]
        if self._parts[0] == "download":
            self._parts.pop(0)
        self._query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.refusal:
            self._refuse(self.server.refusal)
        return not self.server.refusal

    def _found(self) -> Object | None:
        inside = tuple(self._parts[:-1]) == OBJECTS
        return self.server.objects.get(self._parts[-1]) if inside else None

    def _listing(self) -> dict:
        prefix, delimiter = self._query.get("prefix", ""), self._query.get("delimiter")
        after = self._query.get("pageToken", "")
        start, end = self._query.get("startOffset", ""), self._query.get("endOffset")
        with self.server.lock:
            found = dict(self.server.objects)
        entries: dict[str, dict | None] = {}
        for name in sorted(found):
            if not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                entries[prefix + rest.partition(delimiter)[0] + delimiter] = None
            else:
                entries[name] = _metadata(name, found[name])
        left = [name for name in sorted(entries) if name > after]
        page = left[: min(self.server.page, int(self._query.get("maxResults", 1000)))]
        listing: dict = {"kind": "storage#objects"}
        listing["items"] = [entries[name] for name in page if entries[name]]
        listing["prefixes"] = [name for name in page if not entries[name]]
        if len(page) < len(left):
            listing["nextPageToken"] = page[-1]
        return listing

    def _upload(self) -> None:
        kind, upload = self._query.get("uploadType"), self._query.get("upload_id")
        if upload:
            self._continue(upload)
        elif kind == "resumable":
            number = str(next(self.server.numbers))
            name = self._query.get("name") or json.loads(self._body)["name"]
            self.server.uploads[number] = (name, self._query, bytearray())
            address = f"{self.server.url}{self._raw}?uploadType=resumable&upload_id={number}"
            self._answer(200, headers={"Location": address})
        elif kind == "multipart":
            boundary = b"--" + self.headers.get_param("boundary").encode()
            _, about, content = self._body.split(boundary, 2)
            name = json.loads(re.split(rb"\r?\n\r?\n", about, maxsplit=1)[1])["name"]
            content = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
            content = re.sub(rb"\r?\n\Z", b"", content[: content.rindex(boundary)])
            self._stored(self.server.put(name, content, self._query))
        else:
            self._stored(self.server.put(self._query["name"], self._body, self._query))

    def _continue(self, upload: str) -> None:
        """The next bytes of a resumable upload, of which only the last make an object."""
        name, query, data = self.server.uploads[upload]
        data += self._body
        total = (self.headers.get("Content-Range") or f"*/{len(data)}").rpartition("/")[2]
        if total == str(len(data)):
            del self.server.uploads[upload]
            self._stored(self.server.put(name, bytes(data), query))
        else:
            self._answer(308, headers={"Range": f"bytes=0-{len(data) - 1}"})

    def _send_data(self, found: Object) -> None:
        size = len(found.data)
        headers = {"x-goog-generation": str(found.generation)}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not wanted:
            self._answer(200, found.data, headers)
            return
        first, last = wanted.groups()
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start >= size:
            self._refuse(416)
            return
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._answer(206, found.data[start:stop], headers)

    def _stored(self, metadata: dict | None) -> None:
        if metadata is None:
            self._refuse(412)
        else:
            self._answer(200, metadata)

    def _refuse(self, status: int) -> None:
        self._answer(status, {"error": {"code": status, "message": os.path.basename(self._raw)}})

    def _answer(
        self, status: int, content: dict | bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        sent = len(body) if isinstance(content, bytes) else 0
        path = "/" + "/".join(self._parts)
        asked = self.headers.get("Range") or ""
        self.server.requests.append(Request(self.command, path, self._query, asked, sent))
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(body)
        self.wfile.flush()
