"""Downloads from a server on the loopback; archives that a user brings; the command line."""

import bz2
import contextlib
import gzip
import hashlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from cases import case
from packed import BODY, FILES, MAKERS, SECOND, SIZE, listed, tarred, zipped

from data.prepare import archives, download
from lib import paths
from lib.data import cards, datasets

OTHER = hashlib.shake_256(b"other tiles").digest(SIZE)


def md5(content: bytes) -> str:
    return "md5:" + hashlib.md5(content).hexdigest()


# --- a server that misbehaves on demand ----------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves `files`; `asked` are the paths and Range headers of the requests so far."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.given: list[int] = []  # bytes of each answer
        self.ranges, self.etag, self.if_range = True, '"1"', True
        self.shift, self.most = 0, SIZE  # of the first byte of a range, at most so many bytes
        self.breaks: list[int] = []  # bytes after which the next answers break off
        self.status: list[int] = []  # of the next answers

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    @property
    def asked_ranges(self):
        return [asked for _, asked in self.asked]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        name = self.path.lstrip("/").partition("?")[0]
        server.asked.append((name, asked))
        status = server.status.pop(0) if server.status else 200
        if status != 200 or name not in server.files:
            self.send_error(status if status != 200 else 404)
            return
        body, start = server.files[name], 0
        strong = None if server.etag and server.etag.startswith("W/") else server.etag
        unchanged = not server.if_range or self.headers.get("If-Range") in (None, strong)
        if asked and server.ranges and unchanged:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            whole, body = len(body), body[: start + server.most]
            begin = start + server.shift
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{whole}")
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + server.breaks.pop(0) if server.breaks else len(body)
        server.given.append(len(body[start:end]))
        self.wfile.write(body[start:end])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def one_try(monkeypatch):
    monkeypatch.setattr(download, "TRIES", 1)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "here" / "tiles.bin"


# --- downloading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("known_hash", [None, md5(BODY), md5(BODY).upper().replace("MD5", "md5")])
def test_a_download_is_the_file_and_leaves_nothing_else(server, file, known_hash):
    server.files["tiles.bin"] = BODY
    download.download(server.url("tiles.bin"), file, known_hash)
    assert file.read_bytes() == BODY and listed(file.parent) == ["tiles.bin"]
    assert server.asked_ranges == [None]


def test_a_sha256_is_checked_too(server, file):
    server.files["tiles.bin"] = BODY
    url = server.url("tiles.bin")
    with pytest.raises(ValueError, match="sha256"):
        download.download(url, file, "sha256:" + hashlib.sha256(OTHER).hexdigest())
    download.download(url, file, "sha256:" + hashlib.sha256(BODY).hexdigest())
    assert file.read_bytes() == BODY


def test_progress_is_shown_in_bytes_to_a_terminal_alone(server, file, capfd, monkeypatch):
    server.files["tiles.bin"] = BODY
    for watched in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda watched=watched: watched)
        download.download(server.url("tiles.bin"), file)
        assert ("tiles.bin: 100%" in capfd.readouterr().err) == watched
        file.unlink()


def test_a_broken_off_download_is_gone_on_from_by_the_same_call(server, file):
    server.files["tiles.bin"], server.breaks = BODY, [SIZE // 2, SIZE // 4]
    download.download(server.url("tiles.bin"), file, md5(BODY))
    assert file.read_bytes() == BODY
    first, second, third = server.asked_ranges
    begins = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in (second, third)]
    assert first is None and SIZE // 4 < begins[0] <= SIZE // 2 < begins[1] <= 3 * SIZE // 4


@pytest.mark.parametrize("etag", ['"1"', 'W/"1"', None])
def test_a_broken_off_download_is_gone_on_from_by_the_next_call(server, one_try, file, etag):
    server.files["tiles.bin"], server.breaks, server.etag = BODY, [SIZE // 2], etag
    with pytest.raises(ConnectionError, match=r"tiles.bin could not be downloaded"):
        download.download(server.url("tiles.bin"), file, md5(BODY))
    kept = (file.parent / "tiles.bin.part").read_bytes()
    assert not file.exists() and SIZE // 4 < len(kept) <= SIZE // 2 and BODY.startswith(kept)
    download.download(server.url("tiles.bin"), file, md5(BODY))
    assert file.read_bytes() == BODY and server.asked_ranges == [None, f"bytes={len(kept)}-"]
    assert server.given == [SIZE // 2, SIZE - len(kept)]
    assert listed(file.parent) == ["tiles.bin"]


def test_a_connection_that_always_breaks_ends_with_the_reason_and_what_is_here(server, file):
    server.files["tiles.bin"], server.breaks = BODY, [70_000] * 100
    with pytest.raises(ConnectionError, match=r"in 5 tries") as error:
        download.download(server.url("tiles.bin"), file)
    part = file.parent / "tiles.bin.part"
    assert len(server.asked) == download.TRIES == 5 and not file.exists()
    assert server.url("tiles.bin") in str(error.value)
    assert f"{part.stat().st_size:,} bytes are here" in str(error.value)
    assert part.stat().st_size >= 5 * 2**16 and BODY.startswith(part.read_bytes())


def test_a_server_without_ranges_gives_the_whole_file_again(server, file):
    server.files["tiles.bin"], server.breaks, server.ranges = BODY, [SIZE // 2], False
    download.download(server.url("tiles.bin"), file)
    assert file.read_bytes() == BODY and len(server.asked) == 2


def test_a_server_that_gives_less_than_the_rest_is_asked_again(server, file):
    server.files["tiles.bin"], server.breaks, server.most = BODY, [SIZE // 2], SIZE // 4
    download.download(server.url("tiles.bin"), file)
    assert file.read_bytes() == BODY and 3 <= len(server.asked) <= 4


def test_another_part_than_the_one_asked_for_is_not_added(server, one_try, file):
    server.files["tiles.bin"], server.breaks, server.shift = BODY, [SIZE // 2], 1
    for _ in range(2):
        with pytest.raises(ConnectionError):
            download.download(server.url("tiles.bin"), file)
    assert listed(file.parent) == ["tiles.bin.part.json"]
    download.download(server.url("tiles.bin"), file)
    assert file.read_bytes() == BODY and server.asked_ranges[2] is None


@pytest.mark.parametrize("if_range", [True, False], ids=["If-Range kept", "If-Range ignored"])
@pytest.mark.parametrize("length", [SIZE, SIZE // 3])
def test_a_file_that_changed_in_between_is_fetched_again(server, one_try, file, if_range, length):
    server.files["tiles.bin"], server.breaks, server.if_range = BODY, [SIZE // 2], if_range
    with pytest.raises(ConnectionError):
        download.download(server.url("tiles.bin"), file)
    server.files["tiles.bin"], server.etag = OTHER[:length], '"2"'
    if not if_range:
        with pytest.raises(ConnectionError, match="changed"):
            download.download(server.url("tiles.bin"), file)
    download.download(server.url("tiles.bin"), file)
    assert file.read_bytes() == OTHER[:length]


def test_a_changed_size_shows_a_changed_file_where_no_version_is_told(server, file):
    server.files["tiles.bin"], server.etag, server.breaks = BODY, None, [100_000]
    with pytest.MonkeyPatch.context() as patched, pytest.raises(ConnectionError):
        patched.setattr(download, "TRIES", 1)
        download.download(server.url("tiles.bin"), file)
    server.files["tiles.bin"] = OTHER + b"more"
    download.download(server.url("tiles.bin"), file)
    assert file.read_bytes() == OTHER + b"more"


def test_a_complete_part_is_not_asked_for_again(server, file, monkeypatch):
    server.files["tiles.bin"] = BODY

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(download.pooch, "file_hash", interrupted)
        download.download(server.url("tiles.bin"), file, md5(BODY))
    assert listed(file.parent) == ["tiles.bin.part", "tiles.bin.part.json"]
    download.download(server.url("tiles.bin"), file, md5(BODY))
    assert file.read_bytes() == BODY and len(server.asked) == 1


def test_a_part_whose_notes_are_broken_is_not_trusted(server, file):
    server.files["tiles.bin"] = BODY
    file.parent.mkdir()
    (file.parent / "tiles.bin.part").write_bytes(OTHER[:1000])
    (file.parent / "tiles.bin.part.json").write_text('{"vers')
    download.download(server.url("tiles.bin"), file)
    assert file.read_bytes() == BODY and server.asked_ranges == [None]


def test_a_wrong_checksum_names_both_and_the_next_call_starts_again(server, file):
    server.files["tiles.bin"] = OTHER
    with pytest.raises(ValueError) as error:
        download.download(server.url("tiles.bin"), file, md5(BODY))
    for named in (server.url("tiles.bin"), md5(OTHER)[4:], md5(BODY)[4:]):
        assert named in str(error.value)
    assert listed(file.parent) == []
    server.files["tiles.bin"] = BODY
    download.download(server.url("tiles.bin"), file, md5(BODY))
    assert file.read_bytes() == BODY and server.asked_ranges == [None, None]


def test_a_refusal_names_the_url_and_is_not_repeated(server, file):
    for status in (401, 403, 404):
        server.status, server.asked = [status], []
        message = rf"{server.url('no')} answers {status}"
        with case(status), pytest.raises(ConnectionError, match=message):
            download.download(server.url("no"), file)
        assert len(server.asked) == 1 and listed(file.parent) == [], status


def test_a_busy_server_is_asked_again(server, file):
    server.files["tiles.bin"], server.status = BODY, [503, 429]
    download.download(server.url("tiles.bin"), file)
    assert file.read_bytes() == BODY and len(server.asked) == 3


def test_offline_names_the_url(server, file):
    closed = Server()
    url = closed.url("tiles.bin")
    closed.server_close()
    with pytest.raises(ConnectionError, match=f"{url} could not be downloaded in 5 tries.*refused"):
        download.download(url, file)
    assert listed(file.parent) == []


def test_a_silent_server_is_given_up(server, file, one_try, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (0.2, 0.2))
    go_on = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda self: go_on.wait(10))
    with pytest.raises(ConnectionError, match="timed out"):
        download.download(server.url("tiles.bin"), file)
    go_on.set()


def test_only_http_is_downloaded_also_after_a_redirect(server, file, monkeypatch, tmp_path):
    (tmp_path / "secret").write_text("secret")
    for url in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/x", "no address", "http:///x"):
        with case(url), pytest.raises(ConnectionError, match="cannot be downloaded"):
            download.download(url, file)

    def leads_elsewhere(self):
        self.server.asked.append((self.path, None))
        self.send_response(302)
        self.send_header("Location", f"file://{tmp_path}/secret")
        self.end_headers()

    monkeypatch.setattr(Handler, "do_GET", leads_elsewhere)
    with pytest.raises(ConnectionError, match="cannot be downloaded"):
        download.download(server.url("x"), file)
    assert len(server.asked) == 1 and listed(file.parent) == []


def answer_without_end(step):
    def answer(self):
        self.send_response(200)
        self.end_headers()  # with no length
        with contextlib.suppress(OSError):
            while True:
                step(self.wfile)

    return answer


def test_a_server_that_drips_is_given_up(server, file, one_try, monkeypatch):
    def drip(wfile):
        wfile.write(b"x")
        time.sleep(0.02)

    monkeypatch.setattr(download, "TIMEOUT", (5, 0.3))
    monkeypatch.setattr(Handler, "do_GET", answer_without_end(drip))
    with pytest.raises(ConnectionError, match="it sends less than 1,000 bytes a second"):
        download.download(server.url("tiles.bin"), file)
    assert not file.exists()


def test_a_download_without_end_stops_before_the_disk_is_full(server, file, monkeypatch):
    part = file.with_name("tiles.bin.part")

    def usage(_):
        arrived = part.stat().st_size if part.exists() else 0
        return shutil._ntuple_diskusage(2**40, 0, archives.RESERVE + 2**20 - arrived)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(Handler, "do_GET", answer_without_end(lambda f: f.write(bytes(2**16))))
    with pytest.raises(OSError, match=r"the download of .*tiles\.bin needs .* are kept"):
        download.download(server.url("tiles.bin"), file)
    assert not file.exists() and part.stat().st_size <= 2**20


def test_bytes_are_kept_as_they_are_sent(server, file, monkeypatch):
    packed = gzip.compress(bytes(2**20))

    def answer(self):
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(packed)))
        self.end_headers()
        self.wfile.write(packed)

    monkeypatch.setattr(Handler, "do_GET", answer)
    download.download(server.url("tiles.tar.gz"), file, md5(packed))
    assert file.read_bytes() == packed


def test_a_disk_without_room_is_seen_before_the_download(server, file, monkeypatch):
    server.files["tiles.bin"] = BODY
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, SIZE - 1))
    with pytest.raises(OSError, match=r"tiles.bin needs 0.0004 GB"):
        download.download(server.url("tiles.bin"), file)
    assert not file.exists()


# --- datasets ------------------------------------------------------------------------------------


def card(*archives, **fields):
    values = {
        "name": "toy",
        "title": "Toy",
        "folder": "toy",
        "tiles": "*.png",
        "classes": (),
        "licence": "CC BY 4.0",
        "citation": "Doe 2020.",
        "source": "https://example.org/toy",
        "archives": archives,
    }
    return cards.Card(**(values | fields))


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "second"))
    return tmp_path / "data" / "raw"


TABLE = b"path,slide\na,1\n"


def test_a_dataset_is_downloaded_unpacked_and_left_alone_afterwards(server, raw):
    server.files = {"set.zip": zipped(FILES), "more.tar.gz": MAKERS["tar.gz"](SECOND)}
    server.files["groups.csv"] = TABLE
    toy = card(
        {"contains": "set", "url": server.url("set.zip?download=1"), "hash": md5(zipped(FILES))},
        {"contains": "more", "url": server.url("more.tar.gz")},
        {"contains": "groups.csv", "url": server.url("groups.csv"), "hash": md5(TABLE)},
    )
    for _ in range(2):
        assert download.fetch(toy) == raw / "toy"
        assert listed(raw) == sorted(f"toy/{name}" for name in [*FILES, *SECOND, "groups.csv"])
        assert len(server.asked) == 3
    assert (raw / "toy" / "groups.csv").read_bytes() == TABLE
    assert (raw / "toy" / "set/a/2.png").read_bytes() == b"two" * 50
    assert [f.name for f in raw.iterdir()] == ["toy"]


def test_only_what_is_missing_is_downloaded(server, raw):
    server.files["set.zip"] = zipped(FILES)
    (raw / "toy" / "more").mkdir(parents=True)
    download.fetch(
        card({"contains": "more", "url": "no"}, {"contains": "set", "url": server.url("set.zip")})
    )
    assert listed(raw / "toy") == sorted(FILES) and len(server.asked) == 1


def test_a_dataset_in_the_second_place_is_found(raw, tmp_path):
    (tmp_path / "second" / "toy" / "set").mkdir(parents=True)
    assert download.fetch(card({"contains": "set", "url": "no"})) == tmp_path / "second" / "toy"
    assert download.fetch(card()) == tmp_path / "second" / "toy"
    assert not raw.exists()


def test_half_a_dataset_in_the_second_place_is_not_enough(server, raw, tmp_path):
    server.files["both.zip"] = zipped(FILES | SECOND)
    (tmp_path / "second" / "toy" / "set").mkdir(parents=True)
    both = [{"contains": contains, "url": server.url("both.zip")} for contains in ("set", "more")]
    assert download.fetch(card(*both)) == raw / "toy"
    assert listed(raw) == sorted(f"toy/{name}" for name in FILES | SECOND)
    assert len(server.asked) == 1  # one archive for both


def test_a_dataset_without_archives_says_where_to_get_it(raw):
    with pytest.raises(FileNotFoundError, match=r"Get it from https://example.org/toy and put it"):
        download.fetch(card())


@pytest.mark.parametrize("checked", [True, False], ids=["with hash", "without hash"])
def test_a_hostile_archive_leaves_no_dataset(server, raw, checked):
    content = zipped(FILES | {"../../evil": b"evil"})
    server.files["set.zip"] = content
    known = {"hash": md5(content)} if checked else {}
    with pytest.raises(ValueError, match=r"'../../evil' would land outside"):
        download.fetch(card({"contains": "set", "url": server.url("set.zip")} | known))
    assert not (raw / "toy").exists() and not list(raw.parent.rglob("evil"))
    if not checked:  # the server may give a better one the next time
        server.files["set.zip"] = zipped(FILES)
        download.fetch(card({"contains": "set", "url": server.url("set.zip")}))
        assert listed(raw) == sorted(f"toy/{name}" for name in FILES)


def test_a_web_page_is_not_taken_for_the_data(server, raw):
    page = b"\n<!DOCTYPE html><html>Please log in</html>"
    for contains, content in (("groups.csv", page), ("set", b"Please log in")):
        server.files["data"] = content
        message = r"/data gives no archive; perhaps it asks for a login"
        with case(contains), pytest.raises(ValueError, match=message):
            download.fetch(card({"contains": contains, "url": server.url("data")}))
        assert listed(raw) == [], contains


def test_an_address_that_is_gone_names_the_page_of_the_dataset(server, raw):
    with pytest.raises(ConnectionError, match=r"answers 404.*https://example.org/toy"):
        download.fetch(card({"contains": "set", "url": server.url("set.zip")}))
    assert not (raw / "toy").exists() and not list(raw.iterdir())


def test_the_next_call_takes_a_broken_dataset_up_again(server, one_try, raw):
    content = zipped({"set/tiles": BODY})
    server.files["set.zip"], server.breaks = content, [SIZE // 2]
    toy = card({"contains": "set", "url": server.url("set.zip"), "hash": md5(content)})
    with pytest.raises(ConnectionError):
        download.fetch(toy)
    assert not (raw / "toy").exists()
    download.fetch(toy)
    assert (raw / "toy" / "set" / "tiles").read_bytes() == BODY
    assert server.asked_ranges[1].startswith("bytes=") and [f.name for f in raw.iterdir()] == [
        "toy"
    ]


KILLED = """
import os, shutil, signal, sys
from data.prepare import archives, download
from lib.data.cards import Card

copy, n = shutil.copyfileobj, 0
def copy_two(*arguments):
    global n
    n += 1
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    copy(*arguments)

archives.shutil.copyfileobj = copy_two
wanted = {"contains": "set", "url": sys.argv[1]}
download.fetch(Card("toy", "Toy", "toy", "*.png", (), "", "", "", archives=[wanted]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("part_is_here", [False, True], ids=["new folder", "folder with more"])
def test_a_process_killed_while_unpacking_leaves_no_half_dataset(server, raw, part_is_here):
    server.files["set.zip"] = zipped(FILES)
    if part_is_here:
        (raw / "toy" / "more").mkdir(parents=True)
    url = server.url("set.zip")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, url], cwd=paths.ROOT, capture_output=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (raw / "toy" / "set").exists() and (raw / "toy").exists() == part_is_here
    assert [f.name for f in raw.rglob("2.png")] == ["2.png"]  # it had begun
    download.fetch(card({"contains": "set", "url": url}))
    assert listed(raw) == sorted(f"toy/{name}" for name in FILES)
    assert len(server.asked) == 1 and [f.name for f in raw.iterdir()] == ["toy"]


def test_of_two_that_fetch_at_once_one_downloads_and_the_other_waits(server, raw):
    server.files["set.zip"] = zipped(FILES)
    toy = card({"contains": "set", "url": server.url("set.zip")})
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(download.fetch, [toy, toy])) == [raw / "toy"] * 2
    assert len(server.asked) == 1 and [f.name for f in raw.iterdir()] == ["toy"]


# --- archives that a user brings -----------------------------------------------------------------


@pytest.fixture
def bring(raw):
    def put(name, content):
        (raw / "toy").mkdir(parents=True, exist_ok=True)
        (raw / "toy" / name).write_bytes(content)

    return put


def test_a_brought_archive_is_found_by_its_hash(bring, raw):
    bring("a.zip", zipped({"set/wrong": b"wrong"}))
    bring("my download.bin", zipped(FILES))
    download.fetch(card({"contains": "set", "hash": md5(zipped(FILES))}, access="a form"))
    assert listed(raw / "toy") == sorted(["a.zip", "my download.bin", *FILES])


def test_a_brought_archive_without_hash_is_found_by_what_it_contains(bring, raw):
    bring("a.zip", zipped({"other/x": b"x"}))
    bring("b.tar.xz", MAKERS["tar.xz"](FILES | SECOND))
    bring("notes.txt", b"set")
    download.fetch(card({"contains": "set"}, {"contains": "more"}))
    assert listed(raw / "toy") == sorted(["a.zip", "b.tar.xz", "notes.txt", *FILES, *SECOND])


def test_a_missing_archive_says_where_to_get_it_and_where_to_put_it(raw):
    with pytest.raises(FileNotFoundError) as error:
        download.fetch(card({"contains": "set", "hash": "md5:123"}, access="after signing a form"))
    assert str(error.value) == (
        "'set' of dataset 'toy' is not here and has to be fetched by hand. Get it from "
        "https://example.org/toy (after signing a form), put the archive with md5:123 into "
        f"{raw / 'toy'} and give the same command again, or put 'set' itself there."
    )
    assert not (raw / "toy").exists()


def test_a_brought_archive_that_is_not_it_is_named_with_the_reason(bring, raw):
    bring("a.zip", zipped({"other/x": b"x"}))
    bring("b.tar", tarred({"set/../../evil": b"x"}))
    bring("c.tar.bz2", bz2.compress(tarred(FILES) * 20)[:-20])
    with pytest.raises(FileNotFoundError) as error:
        download.fetch(card({"contains": "set"}))
    for named in (r"a.zip is not it: .*does not contain 'set'", r"b.tar is not it: .*evil' would"):
        assert re.search(named, str(error.value))
    with pytest.raises(FileNotFoundError, match=r"a.zip is not it: its md5 is .*should be 123"):
        download.fetch(card({"contains": "set", "hash": "md5:123"}))
    assert listed(raw / "toy") == ["a.zip", "b.tar", "c.tar.bz2"]


# --- the command line ----------------------------------------------------------------------------

KINDS = [{"name": "fat", "folder": "adipose"}, {"name": "muscle", "folder": "smooth_muscle"}]


@pytest.fixture
def write_card(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "card_file", lambda dataset: tmp_path / f"{dataset}.yaml")

    def write(*archives, **fields):
        shown = card(**fields)
        names = ("title", "folder", "tiles", "licence", "citation", "source")
        values = {name: getattr(shown, name) for name in names} | {"classes": KINDS} | fields
        values["archives"] = list(archives)
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump(values))

    return write


def test_the_command_shows_licence_and_citation_and_where_the_dataset_lies(
    server, raw, write_card, capsys
):
    server.files["set.zip"] = zipped(FILES)
    write_card({"contains": "set", "url": server.url("set.zip")})
    assert download.main(["toy"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Toy" and "CC BY 4.0" in shown[1] and "Doe 2020." in shown[2]
    assert "https://example.org/toy" in shown[2] and shown[3] == f"toy is at {raw / 'toy'}"
    assert (raw / "toy" / "set/a/1.png").read_bytes() == b"one"


def test_the_command_fails_in_one_line(server, raw, write_card, capsys):
    write_card({"contains": "set", "url": server.url("set.zip")})
    assert download.main(["toy"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1 and "404" in shown
    assert download.main(["nothing"]) == 1
    assert "error: no card" in capsys.readouterr().err


def test_an_interrupted_command_says_so(raw, write_card, capsys, monkeypatch):
    def interrupted(card):
        raise KeyboardInterrupt

    write_card()
    monkeypatch.setattr(download, "fetch", interrupted)
    assert download.main(["toy"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_the_command_draws_the_tiles_of_a_synthetic_dataset(raw, write_card):
    write_card(synthetic={"slides": 2, "tiles": 4, "size": 32, "shift": 0.0, "seed": 0})
    assert download.main(["toy"]) == 0
    assert len(list((raw / "toy").rglob("*.png"))) == 4


def test_the_command_cuts_the_tiles_of_a_dataset_with_masks(server, raw, capsys, monkeypatch):
    server.files["set.zip"] = zipped(FILES)
    toy = card({"contains": "set", "url": server.url("set.zip")}, patching={"size": 32})

    def prepare(card):
        assert card is toy and (raw / "toy" / "set").is_dir()
        return raw / "toy-tiles"

    monkeypatch.setattr(download, "read_card", lambda _: toy)
    monkeypatch.setattr(datasets, "prepare", prepare)
    assert download.main(["toy"]) == 0
    assert capsys.readouterr().out.endswith(f"toy is at {raw / 'toy-tiles'}\n")
