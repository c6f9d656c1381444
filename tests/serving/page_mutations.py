"""Uploads and requests with damage, over HTTP: the page answers each, or says in plain words why it does not."""

import json
import random
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.serving.mutations import NUMBERS, damage


TIMEOUT = 60
ENDPOINTS = {"load": 2, "reconstruct": 3, "segment": 1, "classify": 1, "compare": 2, "load_second": 2, "embed": 0}
ENDPOINTS |= {"save_reconstruction": 0, "save_features": 0, "save_classes": 0, "save_change": 0, "sample": 0}
SOUND = {"reconstruct": [50, "Tokens", 0], "segment": ["True colour"], "classify": ["True colour"], "embed": []}
SOUND |= {"compare": [0.5, "True colour"]}
PATHS = ("upload", "queue/join", "queue/data", "call/load", "run/load", "api/load", "cancel", "reset", "file=", "x")
# What no answer may show: it was meant for the author of the program, not for a visitor.
UNCLEAR = re.compile(r"Traceback|object has no attribute|NoneType|KeyError|IndexError|TypeError|site-packages")
# Gradio, to programs that send other types or numbers of values than it has described: it says which it expected.
CLEAR = ("Expected a `", "didn't receive enough input values")


@dataclass
class Page:
    """A visitor who takes no care.

    Attributes:
        url: Of the page.
        counts: How often it answered, and refused.
        unclear: Numbers of the cases whose answer helps nobody, with the answer.
        last: The last answer.
    """

    url: str
    counts: dict[str, int] = field(default_factory=lambda: {"answered": 0, "refused": 0})
    unclear: list[str] = field(default_factory=list)
    last: str = ""

    def ask(self, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, str]:
        """Return the status and the text of an answer."""
        request = urllib.request.Request(f"{self.url}gradio_api/{path}", body, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def upload(self, content: bytes, name: str = "a.tif", boundary: str = "b0undary") -> tuple[int, str]:
        """Send a file as a browser does."""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode(errors="replace") + content + f"\r\n--{boundary}--\r\n".encode()
        return self.ask("upload", body, "multipart/form-data; boundary=b0undary")

    def call(self, endpoint: str, data: object, session: str) -> tuple[bool, str]:
        """Call an endpoint, and return whether it answered, and its last event or the refusal."""
        body = json.dumps({"data": data, "session_hash": session}).encode()
        status, text = self.ask(f"call/{endpoint}", body)
        if status != 200:
            self.check(status, text)
            return False, text
        status, text = self.ask(f"call/{endpoint}/{json.loads(text)['event_id']}")
        return "event: complete" in text, text

    def check(self, status: int, text: str) -> None:
        """Note an answer that helps nobody."""
        if any(clear in text for clear in CLEAR):
            return
        if (status >= 500 and status != 507) or len(text) < 5 or UNCLEAR.search(text):
            self.unclear.append(f"{status} {text[-300:]}")

    def try_case(self, number: int, sources: list[bytes]) -> None:
        """Do one damaged thing, and note how it ended."""
        before = len(self.unclear)
        self._count(self._steps(random.Random(number), sources))
        self.unclear[before:] = [f"{number}: {text}" for text in self.unclear[before:]]

    def try_file(self, content: bytes, session: str) -> None:
        """Upload a file, load it, and do everything with it."""
        self._count(self._use(content, "a.tif", session, list(SOUND)))

    def _count(self, steps: Iterator[tuple[bool, str]]) -> None:
        for answered, self.last in steps:
            self.counts["answered" if answered else "refused"] += 1
            self.check(200 if answered else 400, self.last)

    def _use(self, content: bytes, name: str, session: str, endpoints: list[str]) -> Iterator[tuple[bool, str]]:
        status, text = self.upload(content, name)
        self.check(status, text)
        if status != 200:
            yield False, text
            return
        file = {"path": json.loads(text)[0], "meta": {"_type": "gradio.FileData"}, "orig_name": name}
        yield self.call("load", [file, False], session)
        if "compare" in endpoints:
            yield self.call("load_second", [file, "True colour"], session)
        for endpoint in endpoints:
            yield self.call(endpoint, SOUND[endpoint], session)

    def _steps(self, choose: random.Random, sources: list[bytes]) -> Iterator[tuple[bool, str]]:
        session, content = f"visit{choose.randrange(40)}", choose.choice(sources)
        kind = choose.randrange(10)
        if kind < 6:  # a damaged file, and what the page does with it
            name = choose.choice(("a.tif", "a.jp2", "a", "../../a.tif", "ä" * 200 + ".tif", "a.tif/", "con.tif\0", ""))
            yield from self._use(damage(content, choose), name, session, [choose.choice(list(SOUND))])
        elif kind < 8:  # data of the wrong kind, number or size
            endpoint, count = choose.choice(list(ENDPOINTS.items()))
            data = [_value(choose) for _ in range(choose.choice((count, count, count, 0, count + 1, 40)))]
            yield self.call(endpoint, data, session)
        elif kind == 8:  # bodies that are no such request at all
            path = choose.choice(PATHS)
            body = damage(
                json.dumps({"data": [_value(choose)], "fn_index": choose.choice((0, 5, -1, 10**9, "a"))}).encode(),
                choose,
            )
            status, text = self.ask(path, choose.choice((body, body, content, b"", b"[" * 50_000)))
            self.check(status, text)
            yield status == 200, text or "no body"
        else:  # forms that do not end, or not as they say
            status, text = self.upload(
                content, choose.choice(('"', "a\r\n\r\n", "b0undary")), choose.choice(("x", "", "b0undary"))
            )
            self.check(status, text)
            yield status == 200, text


def _value(choose: random.Random) -> object:
    value = choose.choice((*NUMBERS, "Tokens", "True colour", "/etc/passwd", {"path": "/etc/passwd"}))
    if choose.random() < 0.2:
        value = {
            "path": value,
            "meta": {"_type": "gradio.FileData"},
            "url": choose.choice((None, "http://127.0.0.1:1/a")),
        }
    for _ in range(choose.choice((0, 0, 0, 1, 300))):
        value = [value]
    return value
