"""Hubs that hang, trickle, or are none, and proxies before them."""

import contextlib
import functools
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

from huggingface_hub import constants

from lib.vlm import model_files
from lib.vlm.encoders import load_encoder
from lib.vlm.loading import load_vlm

from .fault import Fault, nothing
from .machine import forked

ABOUT = b'{"id": "lab/model", "sha": "%s", "siblings": []}' % (b"0123456789" * 4)
PAGE = b"<!DOCTYPE html><title>Sign in</title>"


class Hub(BaseHTTPRequestHandler):
    """Answers everything alike, and may take its time."""

    def __init__(self, *arguments, content, pause):
        self.content, self.pause = content, pause
        super().__init__(*arguments)

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked has gone
            for letter in self.content:
                self.wfile.write(bytes([letter]))
                time.sleep(self.pause)

    do_HEAD = do_CONNECT = do_GET

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def answering(content, pause):
    """The address of a hub on the loopback; without content it takes calls and never answers."""
    if not content:
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        return
    handler = functools.partial(Hub, content=content, pause=pause)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(content=b"", pause=0.0, *, load=lambda: load_vlm("hf-hub:lab/model"), hub="", **proxy):
    """Load a model, of which nothing is in the cache, from a hub or through a proxy."""

    def work(folder):
        with answering(content, pause) as address:
            told = {"ENDPOINT": hub or address, "HF_HUB_CACHE": str(folder / "cache")}
            told |= {"HF_HUB_OFFLINE": False, "HF_HUB_ETAG_TIMEOUT": 1}
            os.environ |= {n: v.format(address) for n, v in proxy.items()}
            with (
                mock.patch.multiple(constants, **told),
                mock.patch.object(model_files, "MINUTE", 1),
            ):
                load()

    return lambda folder: forked(work, folder)


HUBS = [
    ("never answers", ask(), ["http://127.0.0.1", "1 s at most", "is out of reach: "]),
    ("trickles", ask(ABOUT * 9, 0.3), ["sends less than 1,000 bytes a second"]),
    ("answers with a page", ask(PAGE), ["does not answer as a model hub: is there a proxy"]),
    (
        "stands behind a proxy that answers with a page",
        ask(PAGE, hub="http://hub.invalid", http_proxy="{}"),
        ["http://hub.invalid does not answer as a model hub: is there a proxy"],
    ),
    (
        "stands behind a proxy that speaks another language",
        ask(PAGE, hub="https://hub.invalid", https_proxy="{}"),
        ["https://hub.invalid is out of reach: "],
    ),
    (
        "never answers for a model of open_clip",
        ask(load=lambda: load_vlm("ViT-B-32/laion2b_s34b_b79k")),
        ["1 s at most", "is out of reach: "],
    ),
    ("never answers for an encoder", ask(load=lambda: load_encoder("uni2-h")), ["1 s at most"]),
    ("answers with a page for a CLIP", ask(PAGE, load=lambda: load_vlm("plip")), ["is there a"]),
]
FAULTS = [
    Fault("hubs", f"a hub that {n}", nothing, does, ["cannot be loaded", "local-dir:", *says])
    for n, does, says in HUBS
]
