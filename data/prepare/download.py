"""Download one file over http(s): resumed, checked, bounded, and complete or not there.

pooch, which gives the checksums, starts a download that broke off from the beginning; the archives
here have up to 12 GB.
"""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pooch
import requests
import urllib3
from tqdm import tqdm

from data.prepare.archives import check_room
from lib.command_line import say

TRIES = 5  # requests of one call: the first, and those after it broke off
PAUSE = 1.0  # seconds before the second try, twice as many before the third, …
TIMEOUT = (10, 60)  # seconds to connect, and without a byte
SLOWEST = 1000  # bytes a second, over the last minute
CHUNK = 2**16  # bytes; what of one has arrived is lost when the connection breaks
BUSY = {408, 429, 500, 502, 503, 504}  # HTTP answers after which it is worth trying again


def download(url: str, file: Path, known_hash: str | None = None) -> None:
    """Download to a file, which gets its name only when it is complete and checked.

    `known_hash` is `md5:…` or `sha256:…`. What has arrived waits in `<file>.part`, for the next
    try or the next call. Raises ConnectionError naming the URL that cannot be had, sends less than
    `SLOWEST` or leads to anything but http(s); ValueError naming both hashes if it gives another
    file than expected (which is removed), and OSError before the disk is full.
    """
    if file.exists() and not wrong_hash(file, known_hash):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(file, ".part")
    say(f"waiting for {url}, at most {TRIES} times {TIMEOUT[1]:g} s without an answer")
    for attempt in range(1, TRIES + 1):
        try:
            _request(url, part)
            break
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            if attempt == TRIES:
                kept = part.stat().st_size if part.exists() else 0
                raise ConnectionError(
                    f"{url} could not be downloaded in {TRIES} tries, the last: {error}. "
                    f"{kept:,} bytes are here; the next call goes on from there"
                ) from error
            say(f"no answer from {url}: try {attempt + 1} of {TRIES}")
            time.sleep(PAUSE * attempt)
        except requests.RequestException as error:  # such as a scheme that is not http(s)
            raise ConnectionError(f"{url} cannot be downloaded: {error}") from error
    problem = wrong_hash(part, known_hash)
    if problem:
        part.unlink()
        _beside(part, ".json").unlink()
        raise ValueError(
            f"{url} gave another file: {problem}. The next call starts from the beginning"
        )
    part.replace(file)
    _beside(part, ".json").unlink()


def wrong_hash(file: Path, known_hash: str | None) -> str:
    """What is wrong with the hash of a file; empty if nothing is, or none is known."""
    if known_hash is None:
        return ""
    algorithm, _, wanted = known_hash.lower().partition(":")
    got = pooch.file_hash(str(file), alg=algorithm)
    return "" if got == wanted else f"its {algorithm} is {got}, it should be {wanted}"


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)


def _request(url: str, part: Path) -> None:
    """Bring a partial file to its end with one request, for the rest alone if it has begun.

    Beside it stand the version and size that the server told; they show when the file has changed.
    """
    notes = _beside(part, ".json")
    known = _read_notes(notes) if part.exists() else {}
    start = part.stat().st_size if known else 0
    if start and start == known["size"]:
        return
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known["version"] and not known["version"].startswith("W/"):  # refused by RFC 9110
            headers["If-Range"] = known["version"]
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code in BUSY:
            raise requests.ConnectionError(f"it answers {response.status_code} {response.reason}")
        if response.status_code not in (200, 206, 416):
            raise ConnectionError(f"{url} answers {response.status_code} {response.reason}")
        told = _version_and_size(response, known)
        if response.status_code != 200 and (told != known or _first_byte(response) != start):
            part.unlink(missing_ok=True)
            raise requests.ConnectionError("the file has changed there")
        if response.status_code == 200:
            start = 0
            part.write_bytes(b"")
            notes.write_text(json.dumps(told))
        _write(response, part, start, told["size"])


def _read_notes(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):  # none yet, or broken off while being written
        return {}


def _version_and_size(response: requests.Response, known: Mapping[str, Any]) -> dict[str, Any]:
    """Version and size of the whole file as the answer has them, else as they are known."""
    headers = response.headers
    version = headers.get("ETag") or headers.get("Last-Modified")
    if response.status_code == 200:
        size = headers.get("Content-Length", "")
        return {"version": version, "size": int(size) if size.isdigit() else None}
    size = headers.get("Content-Range", "").rpartition("/")[2]
    whole = int(size) if size.isdigit() else known.get("size")
    return {"version": version or known.get("version"), "size": whole}


def _first_byte(response: requests.Response) -> int | None:
    first = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(first[1]) if first else None


def _write(response: requests.Response, part: Path, start: int, size: int | None) -> None:
    """Add what comes, byte by byte as sent, to the partial file; `size`: in bytes, of the whole."""
    what, began, arrived = f"the download of {response.url}", time.monotonic(), 0
    check_room(part.parent, (size or start) - start, what)
    name = PurePosixPath(response.url.partition("?")[0]).name
    # disable=None: shown in a terminal alone
    bar = tqdm(total=size, desc=name, initial=start, unit="B", unit_scale=True, disable=None)
    with part.open("ab") as file, bar as shown:
        while chunk := response.raw.read1(CHUNK):  # read would wait until all of CHUNK is here
            check_room(part.parent, len(chunk), what)
            file.write(chunk)
            shown.update(len(chunk))
            arrived += len(chunk)
            seconds = time.monotonic() - began
            if seconds > TIMEOUT[1]:
                if arrived < SLOWEST * seconds:
                    raise requests.ConnectionError(f"it sends less than {SLOWEST:,} bytes a second")
                began, arrived = time.monotonic(), 0
    if size not in (None, part.stat().st_size):
        raise requests.ConnectionError("it broke off")
