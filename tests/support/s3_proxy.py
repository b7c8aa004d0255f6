"""A proxy before the S3 server of the tests, which does to each request what a test has told it."""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Instead:
    """Another answer than the server's. `raw`: these bytes are all that is sent, no status and no headers before them.

    `applied`: the server has done what was asked for, all the same.
    """

    content: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    raw: bool = False
    applied: bool = False


Fault = str | int | Instead


class FaultProxy(ThreadingHTTPServer):
    """Takes the next of `faults` for each request; when they are used up, `always`.

    `drop`: the server does it, the answer is lost; an integer: this status instead; `cut`: half of the body; `pass`.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Proxied)
        self.upstream = urlsplit(upstream)
        self.faults: list[Fault] = []
        self.always: Fault = "pass"
        self.seen: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Proxied(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def _any(self) -> None:
        self.server.seen.append(self.command)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.faults.pop(0) if self.server.faults else self.server.always
        if isinstance(fault, int):
            fault = Instead(f"<Error><Code>Injected{fault}</Code><Message>x</Message></Error>".encode(), fault)
        if isinstance(fault, Instead):
            if fault.applied:
                self._upstream(body)
            self._instead(fault)
            return
        answer, content = self._upstream(body)
        if fault == "drop":
            self.close_connection = True
            return
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self._answer(answer.status, answer.getheaders(), content, length, cut=fault == "cut")

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _any

    def _upstream(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        assert self.server.upstream.hostname
        upstream = http.client.HTTPConnection(self.server.upstream.hostname, self.server.upstream.port)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        return answer, answer.read()

    def _instead(self, fault: Instead) -> None:
        if fault.raw:
            self.wfile.write(fault.content)
            self.close_connection = True
            return
        content = b"" if self.command == "HEAD" else fault.content
        self._answer(fault.status, list(fault.headers), content, None)

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, length: str | None, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass
