"""The state of files behind paths, URLs and S3, from servers on this machine."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from spectralgpt_hf.modeling.file_states import name_of_file, state_of_file


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/a.tif", "/data/a.tif"),
        ("/vsizip/{/data/a.zip}/B02.tif", "/data/a.zip"),
        ("https://host/a.tif?X-Amz-Signature=1", "https://host/a.tif"),
        ("/vsicurl/http://host/a.tif?sig=1", "http://host/a.tif"),
        ("/vsizip/{/vsicurl/https://host/a.zip?sig=1}/B02.tif", "https://host/a.zip"),
        ("/vsizip//vsicurl/https://host/a.zip/B02.tif", "https://host/a.zip"),
        ("zip+https://host/a.zip!/B02.tif", "https://host/a.zip"),
        ("s3://bucket/folder.zip.d/a.tif", "s3://bucket/folder.zip.d/a.tif"),
        ("/vsis3/bucket/a.tif", "s3://bucket/a.tif"),
        ("/vsizip/{/vsis3/bucket/a.zip}/B02.tif", "s3://bucket/a.zip"),
        ("zip+s3://bucket/a.zip!B02.tif", "s3://bucket/a.zip"),
    ],
)
def test_a_path_of_gdal_is_named_by_its_file_without_a_signature(path, name):
    assert name_of_file(path) == name


@pytest.fixture
def tagged_server(tmp_path):
    """A server that states an ETag, and stalls for paths that request it."""

    class Handler(BaseHTTPRequestHandler):
        etag = '"one"'

        def do_GET(self):
            self.send_response(206)
            self.send_header("ETag", type(self).etag)
            self.send_header("Content-Length", "1")
            self.end_headers()
            self.wfile.write(b"I")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Handler
    server.shutdown()
    server.server_close()


def test_a_url_is_identified_by_its_etag(tagged_server):
    address, handler = tagged_server
    assert state_of_file(f"{address}/a.tif?sig=1", {}, 10) == '"one"'
    handler.etag = '"two"'
    assert state_of_file(f"{address}/a.tif?sig=1", {}, 10) == '"two"'


S3 = {"AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}


@pytest.mark.parametrize(
    "access", [{"AWS_NO_SIGN_REQUEST": "YES"}, {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}], ids=str
)
def test_an_object_in_s3_is_identified_by_its_size_and_time(tmp_path, file_server, access):
    settings = {**S3, **access, "AWS_S3_ENDPOINT": file_server.removeprefix("http://")}
    (tmp_path / "bucket").mkdir()
    file = tmp_path / "bucket" / "a b.tif"
    file.write_bytes(b"content")
    os.utime(file, (1_000_000, 1_000_000))
    found = state_of_file("/vsis3/bucket/a b.tif", settings, 10)
    assert found == state_of_file("s3://bucket/a b.tif", settings, 10) == "7 bytes, 1000000000000000 ns"
    os.utime(file, (1_000_001, 1_000_001))
    assert state_of_file("/vsis3/bucket/a b.tif", settings, 10) != found
    with pytest.raises(FileNotFoundError, match=r"s3://bucket/missing\.tif: no such object"):
        state_of_file("s3://bucket/missing.tif", settings, 10)


def test_a_bucket_whose_requester_pays_has_no_known_state():
    assert state_of_file("s3://bucket/a.tif", {"AWS_REQUEST_PAYER": "requester"}, 10) == ""
