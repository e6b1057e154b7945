"""Downloads of benchmark files, verified and cached."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxir.errors import UserError
from jaxir.models.hf import local_folder
from jaxir.progress import progress_bar

XQUAD_R_URL = (
    "https://raw.githubusercontent.com/google-research-datasets/lareqa/"
    "9bc8c7fb6dd8d01d72a05a93c2cb96882b0d299c/xquad-r/"
)
XQUAD_R_SHA256 = {
    "ar.json": "c52922d3b8ac1ae03ed5ac38647ad59870dca3dda2beefe18ecdc30729acb69d",
    "de.json": "16fb0f4bf4916154b585a20c24c66074591c9718a1affe764ff4697572328949",
    "el.json": "163fd43ee785a30eb534ae2061e9eaa766a7ee4e8ffce5e4b422480c150f64b6",
    "en.json": "7b0954f39297c27a31fef610f0883337dd2907fa8699151dc922afdd0fa12ffe",
    "es.json": "f8e836b2d91009c4363e04315f7ede363eedbbb49c67dda60de6c4aa782f58de",
    "hi.json": "ea45ba8ae4513d1533b222bebdc02a90bc319c055d3aeea68584a053d2e92872",
    "ru.json": "7f4dff853538b9a5fcc28c070b8bb983a5c5d190ac747b8e005a1ada9cab18f1",
    "th.json": "c3a041864c3a9fb0b4dd91cfdf99cf36b411b3e704c58a303c97bc6dc786cfe4",
    "tr.json": "f3e8c13002bbce154a4578f535f7533cb70f3da08840e6b62735935baec7bd94",
    "vi.json": "e35926bf5cc6fc6ecbdfca49467aabeb454f08d152d7818143a906bd31dde995",
    "zh.json": "80c2cde7b9c2fb134c303cbb52f2ba396ead9eb0014aec43993543d2ba9e93ed",
}
TIMEOUT = 60  # seconds without a byte
CHUNK_BYTES = 1 << 16
MAX_BYTES = 1 << 28  # far more than any file of these benchmarks has


def cache_folder() -> Path:
    """The folder for downloads and token ids: $JAXIR_CACHE, or `jaxir` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("JAXIR_CACHE") or Path(base) / "jaxir")


def xquad_r_folder() -> Path:
    """The folder of XQuAD-R's files, downloaded if they are not cached."""
    folder = cache_folder() / "xquad-r"
    download(XQUAD_R_URL, XQUAD_R_SHA256, folder)
    return folder


def download(url: str, sha256: Mapping[str, str], folder: Path) -> None:
    """Download files that the folder lacks; an interrupted download is resumed.

    Args:
        url: of the folder in which they are published, ending in "/".
        sha256: of each file, by name.
        folder: for the files.

    Raises:
        UserError: a file cannot be downloaded, or is not the published one.
    """
    missing = [name for name in sha256 if not (folder / name).exists()]
    if not missing:
        return
    with progress_bar(f"downloading to {folder}", len(missing), "files") as bar:
        for name in missing:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _fetch(url + name, folder / name, sha256[name])
            except (OSError, http.client.HTTPException) as error:  # urllib's are OSErrors
                reason = getattr(error, "reason", "") or getattr(error, "strerror", "") or error
                reason = " ".join(str(reason).split())  # on one line
                raise UserError(
                    f"{url}{name}: cannot be downloaded to {folder} ({reason}); run the same "
                    "command again to resume, or name a folder that has it with --directory"
                ) from error
            bar.update()


def _fetch(url: str, path: Path, sha256: str) -> None:
    part = path.with_name(path.name + ".part")
    begin = part.stat().st_size if part.exists() else 0
    try:
        _append(url, part, begin)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:  # 416: the part is complete
            raise
    actual = hashlib.sha256(part.read_bytes()).hexdigest()
    if actual != sha256:
        part.unlink()
        raise UserError(
            f"{url}: SHA-256 {actual[:16]}... instead of {sha256[:16]}...: the file was damaged in "
            "the download; run the same command again"
        )
    part.replace(path)


def _append(url: str, part: Path, begin: int) -> None:
    request = urllib.request.Request(url, headers={"Range": f"bytes={begin}-"} if begin else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        is_resumed = response.status == 206
        with part.open("ab" if is_resumed else "wb") as file:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                if file.tell() > MAX_BYTES:
                    part.unlink()
                    raise UserError(f"{url}: over {MAX_BYTES:,} bytes; that is not the benchmark")
        if response.length:  # bytes that did not come: reading in chunks raises no error of its own
            raise ConnectionError(f"broke off {response.length:,} bytes before the end")


def local_dataset(name: str, patterns: Sequence[str]) -> Path:
    """The folder of that name, or the cached one of the hub's dataset, downloaded if need be.

    Args:
        name: a folder, or OWNER/NAME on the hub, or OWNER/NAME@REVISION.
        patterns: files that are needed.

    Raises:
        UserError: there is neither.
    """
    return local_folder(name, "dataset", patterns, ignored=())
