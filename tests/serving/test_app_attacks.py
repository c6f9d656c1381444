"""What hostile visitors of the demo may try: files that lead elsewhere or cost much, forged requests, many bytes."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import rasterio
from gradio.queueing import Event
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from starlette.requests import Request
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from spectralgpt_hf.assets import CHECKPOINT, SAMPLE
from spectralgpt_hf.hub.space import PROXIES
from spectralgpt_hf.serving import gate
from spectralgpt_hf.serving.actions import Actions
from spectralgpt_hf.serving.app import _waiting
from spectralgpt_hf.serving.tasks import Models
from spectralgpt_hf.serving.uploads import read_upload
from tests.modeling.products import write_geotiff
from tests.modeling.test_untrusted import attacks, canary, sparse  # noqa: F401
from tests.serving.checkpoints import save_checkpoint
from tests.serving.conftest import LIMIT


@pytest.fixture
def person(demo_url, tmp_path):
    return Client(demo_url, verbose=False, download_files=tmp_path / "downloads")


def ask(url, path, body=None, headers=None):
    """Return the status and the text of an answer."""
    request = urllib.request.Request(url.rstrip("/") + path, body, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def send(url, endpoint, *data):
    """Call an endpoint with any JSON, as a program that takes no care; return the stream of its events."""
    body = json.dumps({"data": data}).encode()
    status, text = ask(url, f"/gradio_api/call/{endpoint}", body, {"Content-Type": "application/json"})
    assert status == 200, text
    return ask(url, f"/gradio_api/call/{endpoint}/{json.loads(text)['event_id']}")[1]


def press(url, session, number, data, event_data=None):
    """Do what the browser does on an event, with any data; return the last message of the queue."""
    body = {"data": data, "fn_index": number, "session_hash": session, "event_data": event_data, "trigger_id": None}
    ask(url, "/gradio_api/queue/join", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
        for line in stream:
            message = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else {}
            if message.get("msg") == "process_completed":
                return message
    return None


@pytest.mark.filterwarnings("ignore")
def test_uploads_that_name_other_files_are_refused_or_read_alone(person, tmp_path, canary):  # noqa: F811
    (tmp_path / "attacks").mkdir()
    for target in (str(canary.path), f"/vsicurl/{canary.url}"):
        for content, must_fail in attacks(tmp_path / "attacks", target):
            (tmp_path / "attack.tif").write_bytes(content)
            with pytest.raises(AppError) as raised:
                person.predict(handle_file(tmp_path / "attack.tif"), api_name="/load")
            # Sound files with a reference that is not followed have two bands only.
            assert "attack.tif: " in str(raised.value)
            assert must_fail or "expected a multispectral image" in str(raised.value)
        for saved in ("/save_reconstruction", "/save_features"):
            answer = person.predict(api_name=saved)
            assert not answer or not answer.get("value")
    assert not canary.touched()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"side": 16_384, "count": 13}, "16384 x 16384 px, more than the limit"),
        ({"side": 64, "count": 3000}, "3000 bands, more than the limit of 64"),
        ({"side": 4000, "count": 40}, "decodes to 1280 MiB, more than the limit of 1024 MiB"),
    ],
)
def test_small_uploads_of_great_cost_are_refused_at_once(person, tmp_path, size, message):
    path = sparse(tmp_path / "sparse.tif", **size)
    assert path.stat().st_size < LIMIT
    start = time.monotonic()
    with pytest.raises(AppError, match=rf"sparse\.tif: .*{message}"):
        person.predict(handle_file(path), api_name="/load")
    assert time.monotonic() - start < 5


def test_only_uploaded_files_are_opened(demo_url):
    named = {"meta": {"_type": "gradio.FileData"}, "orig_name": "a.tif"}
    paths = ["/etc/passwd", str(SAMPLE), str(SAMPLE.parent / "README.md"), str(SAMPLE.parent / "__init__.py"), "a.tif"]
    for path in paths:
        answer = send(demo_url, "load", {**named, "path": path}, False)
        assert "event: error" in answer
        assert f"Expected an uploaded file, found the path '{path}'" in answer
        assert str(Path.cwd()) in path or str(Path.cwd()) not in answer
    for url in ("http://127.0.0.1:1/a.tif", "https://127.0.0.1:1/a.tif"):
        answer = send(demo_url, "load", {**named, "path": url}, False)
        assert "Expected an uploaded file, found the URL" in answer
        # The place of a number may hold such a file as well.
        assert "Expected an uploaded file" in send(demo_url, "reconstruct", {**named, "path": url}, "Tokens", 0)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=/proc/self/environ",
        f"/gradio_api/file={SAMPLE.parent / '__init__.py'}",
        f"/gradio_api/file={SAMPLE}/../README.md",
        f"/gradio_api/file={SAMPLE.parent}/%2e%2e/assets/README.md",
        f"/gradio_api/file={CHECKPOINT / 'config.json'}",
        "/gradio_api/file=http://127.0.0.1:1/a",
        "/gradio_api/file=https%3A//example.com/a",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=https://example.hf.space/a",
        "/gradio_api/deep_link?session_hash=a",
        "/gradio_api/run-history/buckets",
        "/static/../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/gradio_api/component_server",
    ],
)
def test_no_address_of_the_server_gives_other_files_or_other_servers(demo_url, path):
    status, text = ask(demo_url, path)
    assert status in (403, 404, 405), text
    assert "root:" not in text
    assert "License" not in text


@pytest.mark.parametrize(
    ("endpoint", "data", "message"),
    [
        ("reconstruct", ["many", "Tokens", 0], "not supported between|number"),
        ("reconstruct", [50, "/etc/passwd", 0], "not in the list of choices"),
        ("reconstruct", [50, "Tokens", -1], "less than minimum"),
        ("reconstruct", [50, "Tokens", 10**30], "the seed as a number"),
        ("reconstruct", [50, "Tokens", [1]], "number"),
        ("segment", [{"a": 1}], "not in the list of choices"),
        ("compare", [7, "True colour"], "greater than maximum"),
        ("compare", [0.5, "True colour"], "Upload the second date first"),
        ("load_second", [None, "True colour"], "Upload the second date first"),
        ("load", [5], "error"),
    ],
)
def test_impossible_inputs_end_in_a_message(demo_url, person, crops, endpoint, data, message):
    person.predict(handle_file(crops[0]), api_name="/load")
    with pytest.raises(AppError, match=message):
        person.predict(*data, api_name=f"/{endpoint}")


def test_infinity_is_no_share(demo_url):
    for value in (1e400, float("nan")):
        answer = send(demo_url, "reconstruct", value, "Tokens", 0)
        assert "event: error" in answer
        assert "10 to 95" in answer or "maximum" in answer, answer


def test_clicks_and_states_cannot_be_forged(demo_url, crops, tmp_path):
    client = Client(demo_url, verbose=False, download_files=tmp_path)
    client.predict(handle_file(crops[0]), api_name="/load")
    image = next(part["id"] for part in client.config["components"] if part["props"].get("elem_id") == "image")
    choose = next(d["id"] for d in client.config["dependencies"] if [image, "select"] in map(list, d["targets"]))
    for index in (None, [1], "ab", [-1, 0], [10**9, 0], [0.5, 0], {"a": 1}):
        event = {"index": index, "value": None}
        message = press(demo_url, client.session_hash, choose, [None, None], event)
        assert not message["success"]
        assert "Expected a click" in message["output"]["error"]
    # States are the server's: what a program sends in their place is not looked at.
    forged = {"name": "/etc/passwd", "path": "/etc/passwd", "raster": [1]}
    message = press(demo_url, client.session_hash, choose, [forged], {"index": [0, 0], "value": None})
    assert message["success"]
    message = press(demo_url, "another", choose, [forged], {"index": [0, 0], "value": None})
    assert "Upload a GeoTIFF" in message["output"]["error"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tasks = ("features", "classification", "segmentation", "change")
    return Models(*[save_checkpoint(task, folder / task) for task in tasks])


@pytest.mark.parametrize("name", ["reconstruct", "segment", "compare", "embed", "load"])
def test_every_action_ends_at_its_deadline(models, crops, monkeypatch, name):
    act, upload = Actions(models), read_upload(crops[0])
    monkeypatch.setattr("spectralgpt_hf.serving.uploads.MAX_SECONDS", -1.0)
    calls = {
        "reconstruct": (upload, 50, "Tokens", 0),
        "segment": (upload, "True colour"),
        "compare": (upload, upload, 0.5, "True colour"),
        "embed": (upload,),
        "load": (crops[0],),
    }
    with pytest.raises(ValueError, match="took longer than"):
        getattr(act, name)(*calls[name])


@pytest.mark.slow
def test_the_tiny_checkpoint_answers_a_nodata_corner_in_tiles(tmp_path):
    with rasterio.open(SAMPLE) as sample:
        pixels, names = sample.read(), sample.descriptions
    pixels[:, :100, :100] = 0
    upload = read_upload(write_geotiff(tmp_path / "corner.tif", pixels, names=names, nodata=0))
    assert upload.shape == (512, 512)
    act = Actions(Models(CHECKPOINT))
    start = time.monotonic()
    features, _ = act.embed(upload)
    reconstructed, _ = act.reconstruct(upload, 90, "Tokens", 0)
    assert time.monotonic() - start < 60
    assert np.isnan(features[:, :12, :12]).all()
    assert np.isfinite(reconstructed.reconstructed[:, upload.raster.valid]).all()


def test_a_forged_forwarding_header_gives_no_allowance_of_its_own(demo_url, monkeypatch):
    monkeypatch.setattr(gate, "ALLOWANCE", 2**20)
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    body = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + bytes(2**18) + b"\r\n--b--\r\n"
    )
    statuses = [ask(demo_url, "/gradio_api/upload", body, kind)[0] for _ in range(5)]
    assert statuses[-1] == 429
    for forged in ("1.2.3.4", "1.2.3.4, 127.0.0.1", "10.0.0.9"):
        status, text = ask(demo_url, "/gradio_api/upload", body, kind | {"X-Forwarded-For": forged})
        assert status == 429
        assert "try again later" in text


class Answers:
    """A Gate before a server that answers everything, behind `proxies`."""

    def __init__(self, folder, proxies="", waiting=list):
        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        self._gate = ProxyHeadersMiddleware(gate.Gate(app, folder, waiting), trusted_hosts=proxies)

    def ask(self, path="/gradio_api/upload", length="10", method="POST", address="10.0.0.1", forwarded=None):
        headers = [] if length is None else [(b"content-length", length.encode())]
        headers += [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
        scope = {"type": "http", "path": path, "method": method, "headers": headers, "client": (address, 1)}
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        coroutine = self._gate(scope, receive, send)
        with pytest.raises(StopIteration):
            coroutine.send(None)
        return sent[0]["status"]


def test_an_address_may_upload_so_many_bytes_an_hour(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "ALLOWANCE", 1000)
    monkeypatch.setattr(gate, "LEAST_CHARGE", 1)
    now = [0.0]
    monkeypatch.setattr(gate, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    server = Answers(tmp_path)
    assert [server.ask(length="400") for _ in range(3)] == [200, 200, 429]
    assert server.ask(length="400", address="10.0.0.2") == 200
    now[0] = gate.PERIOD + 1
    assert server.ask(length="1000") == 200
    assert server.ask(length="1001", address="10.0.0.3") == 429


def test_behind_the_proxies_of_a_space_each_visitor_has_an_allowance(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "ALLOWANCE", 100)
    monkeypatch.setattr(gate, "LEAST_CHARGE", 1)
    server = Answers(tmp_path, PROXIES)

    def upload(forwarded):
        return server.ask(length="60", address="10.16.3.4", forwarded=forwarded)

    assert [upload("203.0.113.5, 10.1.1.1"), upload("203.0.113.6, 10.1.1.1")] == [200, 200]
    for forged in ("203.0.113.5", "198.51.100.1, 203.0.113.5, 10.1.1.1", "nobody, 203.0.113.5"):
        assert upload(forged) == 429


def test_the_half_of_an_address_that_a_visitor_chooses_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "ALLOWANCE", 100)
    monkeypatch.setattr(gate, "LEAST_CHARGE", 1)
    server = Answers(tmp_path)
    assert server.ask(length="60", address="2001:db8::1") == 200
    assert server.ask(length="60", address="2001:db8::ffff:2") == 429
    assert server.ask(length="60", address="2001:db8:0:1::1") == 200
    assert [server.ask(length="60", address=a) for a in ("::ffff:192.0.2.1", "192.0.2.1")] == [200, 429]
    assert [server.ask(length="60", address=a) for a in ("testclient", "another")] == [200, 429]


def test_one_visitor_cannot_fill_the_queue(tmp_path):
    waiting = ["10.0.0.1"] * gate.MAX_WAITING
    server = Answers(tmp_path, waiting=lambda: waiting)
    for path in ("/gradio_api/queue/join", "/gradio_api/call/embed"):
        assert server.ask(path) == 429
        assert server.ask(path, address="10.0.0.2") == 200
    assert server.ask() == 200  # an upload
    waiting.pop()
    assert server.ask("/gradio_api/queue/join") == 200


def test_who_waits_in_the_queue_is_known():
    with gr.Blocks() as demo:
        gr.Button().click(lambda: None, concurrency_id="model")
    demo.queue()
    (function,) = demo.fns.values()
    demo._queue.create_event_queue_for_fn(function)
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
        event = Event(None, function, Request({"type": "http", "client": (address, 1)}), None)
        demo._queue.event_queue_per_concurrency_id["model"].queue.append(event)
    assert _waiting(demo) == ["10.0.0.1", "10.0.0.2", "10.0.0.1"]


def test_uploads_end_where_the_disk_space_does(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "DISK_QUOTA", 1000)
    server = Answers(tmp_path)
    (tmp_path / "a").write_bytes(bytes(600))
    assert [server.ask(length="300"), server.ask(length="500")] == [200, 507]
    (tmp_path / "a").unlink()
    assert server.ask(length="500") == 200


def test_many_small_uploads_use_up_the_allowance_too(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "ALLOWANCE", 3 * gate.LEAST_CHARGE)
    server = Answers(tmp_path)
    assert [server.ask(length="1") for _ in range(4)] == [200, 200, 200, 429]


def test_what_broken_uploads_leave_is_deleted_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "DISK_QUOTA", 1000)
    server = Answers(tmp_path)
    for name in ("tmp1", "tmp2"):
        (tmp_path / name).write_bytes(bytes(600))
    assert server.ask(length="500") == 507
    old = time.time() - gate.KEPT - 1
    os.utime(tmp_path / "tmp1", (old, old))
    assert server.ask(length="300") == 200
    assert [path.name for path in tmp_path.iterdir()] == ["tmp2"]


def test_an_upload_is_one_file_and_leaves_nothing_when_refused(demo_url):
    def part(disposition, content):
        return f"--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n".encode()

    file = part('name="files"; filename="a.tif"', "abc")
    folder, kind = Path(os.environ["GRADIO_TEMP_DIR"]), {"Content-Type": "multipart/form-data; boundary=b"}
    before = sorted(folder.rglob("*"))
    for parts, message in (
        (file + file, "Too many files"),
        (part('name="x"', "held in memory" * 1000) + file, "Too many fields"),
        (part('name="other"; filename="a.tif"', "abc"), "field 'files', found 'other'"),
        (part('filename="a.tif"', "abc"), "must be provided"),
    ):
        for query in ("", "?upload_id=1"):
            status, text = ask(demo_url, f"/gradio_api/upload{query}", parts + b"--b--\r\n", kind)
            assert (status, message in text) == (400, True), text
    assert sorted(folder.rglob("*")) == before
    assert ask(demo_url, "/gradio_api/upload", file + b"--b--\r\n", kind)[0] == 200


def test_requests_that_gradio_stumbles_over_are_refused_in_words(demo_url):
    body = json.dumps({"data": ["True colour"], "fn_index": -1}).encode()
    status, text = ask(demo_url, "/gradio_api/api/load", body, {"Content-Type": "application/json"})
    assert (status, text) == (400, gate.UNREADABLE)


def test_bodies_state_a_length_and_are_small(tmp_path):
    server = Answers(tmp_path)
    for length in (None, "-1", "1e3", "9" * 20):
        assert server.ask(length=length) == 411
        assert server.ask("/gradio_api/queue/join", length) == 411
    assert server.ask("/gradio_api/queue/join", str(gate.MAX_BODY + 1)) == 413
    assert server.ask(length=str(gate.MAX_UPLOAD + 1)) == 413
    assert server.ask("/gradio_api/queue/join", "100") == 200


RUN = """
import contextlib
from pathlib import Path
from types import SimpleNamespace
import rasterio
from spectralgpt_hf.serving import app

@contextlib.contextmanager
def serve(*arguments):
    with rasterio.Env() as env:
        print(sorted(env.drivers()))
    yield "http://127.0.0.1"

class Event:
    def wait(self):
        raise KeyboardInterrupt

app.serve, app.threading = serve, SimpleNamespace(Event=Event)
app.run(report=print)
"""


@pytest.mark.slow
def test_the_process_that_serves_restricts_gdal():
    result = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, timeout=120)
    expected = ["['COG', 'GTiff', 'JP2OpenJPEG', 'MEM']", "http://127.0.0.1", "Stopped."]
    assert result.stdout.splitlines() == expected, result.stderr
