"""A web server of a few files on loopback: ranges, ETags, and every trouble that a download meets."""

import contextlib
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class FileServer:
    """Serves `files` (path to content) while it is open.

    Attributes:
        etag: Sent instead of the true one, which is that of a Zenodo record: "md5:...".
        drop_after: Close the connection after so many bytes of a response.
        supports_ranges: Whether `Range` is answered or ignored.
        failures: Status codes of the next responses.
        ranges: The `Range` header of each request.
    """

    def __init__(self, files: dict[str, bytes]):
        self.files = files
        self.etag: str | None = None
        self.drop_after: int | None = None
        self.supports_ranges = True
        self.failures: list[int] = []
        self.ranges: list[str | None] = []

    def __enter__(self) -> "FileServer":
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.ranges.append(request.headers["Range"])
        content = self.files.get(unquote(urlsplit(request.path).path))
        if self.failures or content is None:
            request.send_response(self.failures.pop(0) if self.failures else 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = int(request.headers["Range"][6:-1]) if request.headers["Range"] and self.supports_ranges else 0
        request.send_response(206 if start else 200)
        request.send_header("ETag", self.etag or f'"md5:{hashlib.md5(content).hexdigest()}"')
        request.send_header("Content-Length", str(len(content) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        body = content[start:] if self.drop_after is None else content[start : self.drop_after]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client has seen enough
            request.wfile.write(body)
        request.close_connection = True
