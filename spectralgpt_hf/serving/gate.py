"""Limit the requests to the page's server: to those that the page makes, in size, and in bytes per visitor."""

import logging
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .uploads import MAX_BYTES


# Requests of the page and of the client for programs. Gradio answers others too, which access the Hub, proxy other
# servers, or write the state of a visit to disk.
ALLOWED = re.compile(
    r"/|/config|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/(assets|static|svelte)/.+"
    r"|/gradio_api/(config|info|app_id|startup-events|upload|upload_progress|cancel|reset|queue/(join|data|status)"
    r"|heartbeat/\w+|(call|run|api)/.+|file=(?!https?:).+)/?",
    re.IGNORECASE,
)
QUEUED = re.compile(r"/gradio_api/(queue/join|(call|run|api)/.+)/?", re.IGNORECASE)
MAX_BODY = 2**20  # of all requests but uploads
MAX_UPLOAD = MAX_BYTES + 2**16  # of an upload: a file, and the form around it
ALLOWANCE, PERIOD = 256 * 2**20, 3600  # bytes that one address may upload in so many seconds
LEAST_CHARGE = 2**16  # bytes that an upload counts at least, so that the number of files has a limit too
MAX_DISCARDED = 80 * 2**20  # bytes of a refused body that are read
DISK_QUOTA = 4 * 2**30  # bytes that the page's temporary files may take
MAX_WAITING = 32  # requests of one visitor that wait in the queue
KEPT = 5400  # seconds for which temporary files are kept: longer than Gradio keeps those that it knows

UNREADABLE = "This request cannot be read: expected one that the page or the client for programs makes."

# The page sends no requests to other servers, and these headers let the browser enforce it.
HEADERS = [
    (b"content-security-policy", b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


logger = logging.getLogger(__name__)


class Gate:
    """ASGI middleware that refuses requests before Gradio gets them, and adds headers to every answer.

    A visitor is an IPv4 address, or the first half of an IPv6 address, since the second half is the visitor's own
    choice. Behind a reverse proxy, uvicorn takes the address from `X-Forwarded-For` if the environment variable
    `FORWARDED_ALLOW_IPS` names the proxy.

    Args:
        app: The application that answers the other requests.
        folder: Folder of the page's temporary files.
        waiting: Function that returns the visitor of each request that waits in the queue, as `visitor_of`.
    """

    def __init__(self, app: ASGIApp, folder: Path, waiting: Callable[[], list[str]] = list) -> None:
        self._app, self._folder, self._waiting = app, folder, waiting
        self._uploads: dict[str, deque[tuple[float, int]]] = defaultdict(deque)
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        has_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        # uvicorn holds a request to the length that it states.
        stated = dict(scope["headers"]).get(b"content-length", b"")
        length = int(stated) if re.fullmatch(rb"\d{1,12}", stated) else None
        is_upload = bool(re.fullmatch("/gradio_api/upload/?", scope["path"])) and scope["method"] == "POST"
        refusal = self._refusal(scope, length, is_upload)
        if refusal:
            await _discard(receive, length)
            status, text = refusal
            # The page shows `detail` where it queues an event, and any text where it uploads.
            answer = JSONResponse({"detail": text}, status) if QUEUED.fullmatch(scope["path"]) else None
            await (answer or PlainTextResponse(text, status))(scope, receive, send_with_headers)
            return
        held = length or 0 if is_upload else 0
        self._under_way += held
        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:  # whatever Gradio makes of a forged request; actions report their own errors
            logger.exception("A request to %s could not be read.", scope["path"])
            if has_begun:
                raise
            await PlainTextResponse(UNREADABLE, 400)(scope, receive, send_with_headers)
        finally:
            self._under_way -= held

    def _refusal(self, scope: Scope, length: int | None, is_upload: bool) -> tuple[int, str] | None:
        """Return the status and the message of a refusal, or None."""
        if not ALLOWED.fullmatch(scope["path"]):
            return 404, "There is no such address on this page."
        if scope["method"] in ("GET", "HEAD"):
            return None
        if length is None:
            return 411, "Expected a body with a stated length (Content-Length)."
        most = MAX_UPLOAD if is_upload else MAX_BODY
        if length > most:
            return 413, f"Expected a body of at most {most} bytes, found {length}."
        address, now = visitor_of(scope), time.monotonic()
        if QUEUED.fullmatch(scope["path"]) and self._waiting().count(address) >= MAX_WAITING:
            return 429, f"{MAX_WAITING} requests from this address wait already: try again when some are answered."
        if not is_upload:
            return None
        for known in list(self._uploads):
            recent = self._uploads[known]
            while recent and recent[0][0] < now - PERIOD:
                recent.popleft()
            if not recent:
                del self._uploads[known]
        charge = max(length, LEAST_CHARGE)
        if sum(size for _, size in self._uploads[address]) + charge > ALLOWANCE:
            return 429, f"Uploads from one address are limited to {ALLOWANCE // 2**20} MiB an hour: try again later."
        if _bytes_in(self._folder) + self._under_way + length > DISK_QUOTA:
            return 507, "The disk space for uploads is in use: try again later."
        self._uploads[address].append((now, charge))
        return None


def visitor_of(scope: Scope) -> str:
    """Return who sends a request; all senders without an address that can be read count as one."""
    try:
        address = ip_address((scope.get("client") or ("",))[0])
    except ValueError:
        return ""
    if isinstance(address, IPv4Address):
        return str(address)
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else str(ip_network((int(address) >> 64 << 64, 64)))


async def _discard(receive: Receive, length: int | None) -> None:
    """Read what a refused visitor still sends: a connection that closes before would lose the answer."""
    unread = length is not None and 0 < length <= MAX_DISCARDED
    while unread:
        message = await receive()
        unread = message["type"] == "http.request" and message.get("more_body", False)


def _bytes_in(folder: Path) -> int:
    """Return the size of all files in a folder, and delete those that uploads left which were broken off."""
    total, oldest = 0, time.time() - KEPT
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # Gradio deletes files meanwhile
            state = path.lstat()
            if state.st_mtime < oldest and path.is_file():
                path.unlink()
            else:
                total += state.st_size
    return total
