"""Requests with damage: a handler answers each, or refuses it with a `ValueError`. Prints counts as JSON.

python mutations.py CHECKPOINT FOLDER CASES: run in a process of its own, where `spectralgpt_hf` cannot be imported.
FOLDER holds `a.tif` and `a.jp2`.
"""

import base64
import collections
import importlib.util
import json
import random
import sys
import threading
import time
from pathlib import Path

import psutil


MAGICS = (
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
    b"<VRTDataset",
    b"PK\3\4",
    b"",
)
NUMBERS = (0, -1, 5, 65, 1e9, 1e30, 10**400, float("nan"), float("inf"), True, None, "1", [], {}, [[1]], "B2")


def damage(content: bytes, random: random.Random) -> bytes:
    """Return bytes with bits flipped, sizes or tags replaced, parts cut or repeated, or another magic."""
    content = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        # Tags and boxes are at the beginning or at the end.
        near = random.choice((min(400, len(content)), len(content)))
        position = random.randrange(near) if random.random() < 0.7 else len(content) - 1 - random.randrange(near)
        kind = random.randrange(5)
        if kind == 0:
            content[position] ^= 1 << random.randrange(8)
        elif kind == 1:
            width = random.choice((2, 4, 8))
            value = random.choice((0, 1, 2**31 - 1, 2**15, 2**16 - 1, 2**32 - 1, random.randrange(2**16)))
            part = (value % 256**width).to_bytes(width, random.choice(("little", "big")))
            content[position : position + width] = part[: len(content) - position]
        elif kind == 2 and random.random() < 0.3:
            del content[max(1, position) :]
        elif kind == 3 and random.random() < 0.3:
            content[position:position] = content[: random.randrange(1, 200)]
        elif kind == 4 and random.random() < 0.2:
            content[:4] = random.choice(MAGICS)
    return bytes(content) or b"x"


def request(sources: list[bytes], random: random.Random) -> object:
    """Return a damaged request: its bytes, its JSON or its parameters."""
    content = random.choice(sources)
    kind = random.randrange(10)
    if kind < 6:
        return {"inputs": damage(content, random)}
    if kind == 6:
        return {"inputs": base64.b64encode(damage(content, random)).decode()[: random.choice((None, 101, 4))]}
    if kind == 7:
        value = random.choice(NUMBERS)
        shape = [random.choice((0, 1, 12, 13, 16, 600)) for _ in range(random.choice((1, 2, 3, 4, 40)))][:3]
        lists = value
        for size in reversed(shape):
            lists = [lists] * size
        if random.random() < 0.2:
            for _ in range(900):
                lists = [lists]
        return {"inputs": {random.choice(("pixels", "tiff", "url")): lists, "band_names": random.choice(NUMBERS)}}
    names = random.sample(("band_names", "nodata", "offset", "output", "top_k", "format"), random.randrange(1, 3))
    parameters = {name: random.choice(NUMBERS) for name in names}
    return {"inputs": random.choice((content, damage(content, random))), "parameters": parameters}


def main(checkpoint: str, folder: str, cases: int) -> None:
    sys.modules["spectralgpt_hf"] = None  # type: ignore[assignment]
    spec = importlib.util.spec_from_file_location("handler", Path(checkpoint) / "handler.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    handler = module.EndpointHandler(checkpoint)
    sources = [(Path(folder) / name).read_bytes() for name in ("a.tif", "a.jp2")]
    for content in sources:
        handler({"inputs": content})
    process = psutil.Process()
    idle = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    counts: collections.Counter[str] = collections.Counter()
    longest, unclear = 0.0, []
    for number in range(cases):
        body = request(sources, random.Random(number))
        started = time.monotonic()
        try:
            json.dumps(handler(body), allow_nan=False)
            counts["answered"] += 1
        except ValueError as error:
            counts["refused"] += 1
            if len(str(error)) < 10 or "JSON compliant" in str(error):
                unclear.append(f"{number}: {error}")
        except Exception as error:
            unclear.append(f"{number}: {type(error).__name__}: {error}")
        longest = max(longest, time.monotonic() - started)
    results = {**counts, "longest": longest, "mebibytes": (peak - idle) / 2**20, "unclear": unclear}
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
