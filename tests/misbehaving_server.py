"""A server on the loopback that misbehaves on demand."""

import hashlib
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from packed import SIZE


def md5(content: bytes) -> str:
    return "md5:" + hashlib.md5(content).hexdigest()


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
