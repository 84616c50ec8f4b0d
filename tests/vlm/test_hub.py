"""What is said before a download, by a hub on this machine that gives out a small model."""

import json
import os
import subprocess
import sys
from functools import partial
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from small_models import SMALL, write_model

from lib import paths
from lib.vlm.loading import CONFIG

LOAD = """
from lib.vlm.loading import load_vlm
print(load_vlm("hf-hub:lab/model", device="cpu").commits)
"""


class Hub(BaseHTTPRequestHandler):
    """What the hub client asks for: about the repository, its tree, and its files."""

    def __init__(self, *arguments, folder, commit, asked):
        self.folder, self.commit, self.asked = folder, commit, asked
        super().__init__(*arguments)

    def do_GET(self):
        path = self.path.partition("?")[0]
        files = {f.name: f.read_bytes() for f in self.folder.iterdir()}
        about = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        tree = [
            {"type": "file", "path": n, "size": len(c), "oid": sha1(c).hexdigest()}
            for n, c in files.items()
        ]
        if path.startswith("/lab/model/resolve/"):
            self.asked.append(name := path.rpartition("/")[2])
            return self.answer(files.get(name))
        if "/tree/" in path:
            return self.answer(json.dumps(tree).encode())
        card = {"license": "cc-by-4.0"}
        told = {"id": "lab/model", "sha": self.commit, "cardData": card, "siblings": about}
        return self.answer(json.dumps(told).encode())

    do_HEAD = do_GET

    def answer(self, content):
        self.send_response(200 if content is not None else 404)
        content = content or b""
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{sha1(content).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def load(tmp_path):
    """Load the model in a process of its own: what it prints, and which files it asks for."""
    write_model(tmp_path / "model", SMALL)
    told = {"folder": tmp_path / "model", "commit": "0123456789" * 4, "asked": []}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, **told))
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"

    def run():
        named = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache")}
        named |= {"HF_HUB_OFFLINE": "0", "PYTHONPATH": str(paths.ROOT)}
        told["asked"].clear()
        command = [sys.executable, "-c", LOAD]
        done = subprocess.run(command, env=os.environ | named, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return address, done.stdout.splitlines(), list(told["asked"])

    yield run
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_what_is_fetched_is_said_before_and_once_and_its_commit_stays_known(load, tmp_path):
    address, (waiting, announced, commits), asked = load()
    model = tmp_path / "model"
    files = [file for file in model.iterdir() if file.name in asked]
    size = sum(file.stat().st_size for file in files) / 1e6
    assert {file.name for file in files} == {CONFIG, "open_clip_model.safetensors"}
    assert waiting == f"download: waiting for {address}, 10 s at most"
    assert announced == (
        f"download: lab/model of {address}, {size:,.1f} MB in 2 files, commit {'0123456789' * 4}, "
        "licence there: cc-by-4.0"
    )
    assert commits == str({"hf-hub:lab/model": "0123456789" * 4})
    _, printed, asked = load()
    assert printed == [commits] and not asked
