"""Downloads from a server that misbehaves on demand."""

import contextlib
import gzip
import hashlib
import shutil
import sys
import threading
import time

import pytest
from cases import case
from misbehaving_server import Handler, Server, md5
from packed import BODY, SIZE, listed

from data.prepare import archives, download

OTHER = hashlib.shake_256(b"other tiles").digest(SIZE)


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
