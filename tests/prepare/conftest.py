"""A server, for downloads and for datasets."""

import threading

import pytest
from misbehaving_server import Server

from data.prepare import download


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
