"""Attacks by files that lead elsewhere or cost much. Servers are on loopback, and files are small."""

import ctypes
import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.transform import from_origin

from spectralgpt_hf.modeling import untrusted
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.rasters import open_raster, read_raster
from spectralgpt_hf.modeling.untrusted import Budget, refuse_references
from tests.modeling.products import ORIGIN, write_geotiff


SERVER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    print(connection.recv(4096).split(b"\\r\\n")[0], flush=True)
    connection.sendall(b"HTTP/1.1 404 Not Found\\r\\nContent-Length: 0\\r\\n\\r\\n")
    connection.close()
"""


class Canary:
    """A raster, and a server on loopback, that nothing may read."""

    def __init__(self, folder: Path):
        self.path = write_geotiff(folder / "canary.tif", np.full((2, 16, 16), 777, np.uint16))
        self._libc = ctypes.CDLL(None)
        self._watch = self._libc.inotify_init1(os.O_NONBLOCK)
        opened_or_read = 0x21
        assert self._libc.inotify_add_watch(self._watch, os.fsencode(self.path), opened_or_read) > 0
        self.log = folder / "requests.txt"
        self._server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=self.log.open("w"))
        while not (started := self.log.read_text().splitlines()):
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{started[0]}/canary.tif"

    def touched(self) -> bool:
        """Return whether anything has read the file or asked the server so far."""
        try:
            events = len(os.read(self._watch, 2**16))
        except BlockingIOError:
            events = 0
        return events > 0 or len(self.log.read_text().splitlines()) > 1

    def close(self):
        self._server.kill()
        self._server.wait()
        os.close(self._watch)


@pytest.fixture
def canary(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "canary").mkdir()
    canary = Canary(tmp_path / "canary")
    yield canary
    canary.close()


def referring_tiff(folder, domain, transform=True, crs="EPSG:32633", **items):
    pixels = np.full((2, 64, 64), 5, np.uint16)
    path = folder / f"{len(list(folder.iterdir()))}.tif"
    given = {"transform": from_origin(*ORIGIN, 20, 20) if transform else None}
    write_geotiff(path, pixels, names=["B2", "B3"], crs=crs, **given)
    if domain is not None:
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(ns=domain, **items)
    return path.read_bytes()


def attacks(folder, target):
    """Yield contents that name `target`, and whether they must be refused."""
    for domain in ("OVERVIEWS", "Overviews"):
        yield referring_tiff(folder, domain, OVERVIEW_FILE=target), True
    yield referring_tiff(folder, "OVERVIEWS", overview_file=f":::BASE:::{target}"), True
    yield referring_tiff(folder, "ProxyOverviewRequest", PROXY_OVERVIEW_REQUEST=target), True
    arrays = {"X_DATASET": target, "Y_DATASET": target, "X_BAND": "1", "Y_BAND": "2", "SRS": "EPSG:4326"}
    steps = {"PIXEL_OFFSET": "0", "LINE_OFFSET": "0", "PIXEL_STEP": "1", "LINE_STEP": "1"}
    yield referring_tiff(folder, "GEOLOCATION", transform=False, **arrays, **steps), True
    yield referring_tiff(folder, "RPC", transform=False, RPC_DEM=target), False
    for text in (
        f'<VRTDataset rasterXSize="16" rasterYSize="16"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f"<SourceFilename>{target}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>",
        f"<GDALTileIndexDataset><IndexDataset>{target}</IndexDataset></GDALTileIndexDataset>",
        f"<MRF_META><CachedSource><Source>{target}</Source></CachedSource></MRF_META>",
        f"<GDAL_WMS><Service><ServerUrl>{target}</ServerUrl></Service></GDAL_WMS>",
    ):
        for magic in (b"", b"\xff\x4f\xff\x51", b"II*\0", b"\0\0\0\x0cjP  "):
            yield magic + text.encode(), True


def read_every_way(source, mask):
    """Return the message of a refusal, or None where everything was read, and nothing of the canary."""
    try:
        for resolution in (10, None):
            with open_raster(source, mask=mask, resolution=resolution) as reader:
                assert 777 not in reader.read().pixels
                assert 777 not in reader.read(out_shape=(8, 8)).pixels
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("as_mask", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_bytes_that_name_other_files_reach_neither_a_file_nor_the_network(tmp_path, canary, as_mask):
    sound = write_geotiff(tmp_path / "sound.tif", np.full((2, 64, 64), 5, np.uint16), 20, names=["B2", "B3"])
    written = tmp_path / "attacks"
    written.mkdir()
    for target in (str(canary.path), f"/vsicurl/{canary.url}"):
        for content, must_fail in attacks(written, target):
            message = read_every_way(*((sound, content) if as_mask else (content, None)))
            assert message or not must_fail, content[:200]
            assert not message or re.search(r"sound\.tif" if as_mask else r"raster of \d+ bytes", message)
    assert not canary.touched()
    with rasterio.open(canary.path) as dataset:
        dataset.read()
    assert canary.touched()


def test_the_canary_is_touched_by_a_plain_reader(tmp_path, canary):
    (tmp_path / "a").mkdir()
    content = referring_tiff(tmp_path / "a", "OVERVIEWS", OVERVIEW_FILE=f"/vsicurl/{canary.url}")
    with rasterio.MemoryFile(content) as file, file.open() as dataset:
        dataset.overviews(1)
    assert canary.touched()


def test_a_reference_system_that_names_grids_is_refused(tmp_path):
    plain = write_geotiff(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint16))
    with rasterio.open(plain) as dataset:
        refuse_references(dataset, "a.tif")
        rasterio.shutil.copy(dataset, tmp_path / "a.vrt", driver="VRT")
    text = (tmp_path / "a.vrt").read_text()
    grids = "+proj=utm +zone=33 +ellps=WGS84 +nadgrids=/etc/hostname +units=m +no_defs"
    (tmp_path / "a.vrt").write_text(re.sub("<SRS.*</SRS>", f"<SRS>{grids}</SRS>", text))
    with (
        rasterio.open(tmp_path / "a.vrt") as dataset,
        pytest.raises(ValueError, match=r"a\.vrt: its reference system names? other files"),
    ):
        refuse_references(dataset, "a.vrt")


@pytest.mark.filterwarnings("ignore")
def test_a_jpeg_2000_that_names_its_reference_system_by_url_opens_no_connection(tmp_path, canary):
    path = tmp_path / "a.jp2"
    options = {"driver": "JP2OpenJPEG", "GeoJP2": "NO", "GMLJP2": "YES"}
    content = write_geotiff(path, np.full((2, 64, 64), 5, np.uint16), **options).read_bytes()
    name = b'srsName="urn:ogc:def:crs:EPSG::32633"'
    assert name in content
    for target in (canary.url, str(canary.path)):
        replaced = content.replace(name, b'srsName="%s"' % target.encode())
        _grow_boxes(replaced := bytearray(replaced), content.find(name), len(replaced) - len(content))
        read_raster(bytes(replaced), band_names=["B2", "B3"])
    assert not canary.touched()


def _grow_boxes(content, position, growth):
    """Add to the lengths of the JPEG 2000 boxes around a position."""
    start, end = 0, len(content)
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", content, start)
        if not start < position < start + length:
            start += length or end
            continue
        struct.pack_into(">I", content, start, length + growth)
        start, end = start + 8, start + length + growth
        if kind != b"asoc":
            return


def test_side_files_of_bytes_are_not_looked_for(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", np.full((1, 64, 64), 5, np.uint16), names=["B2"])
    with rasterio.Env(TIFF_USE_OVR=True, GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4])
        dataset.write_mask(np.zeros((64, 64), np.uint8))
    assert len(list(tmp_path.iterdir())) > 1
    assert not read_raster(path).valid.any()
    assert read_raster(path.read_bytes()).valid.all()


def test_internal_masks_and_band_names_of_bytes_are_kept(tmp_path):
    mask = np.full((64, 64), 255, np.uint8)
    mask[:8] = 0
    path = write_geotiff(tmp_path / "a.tif", np.full((2, 64, 64), 5, np.uint16), names=["B8", "B2"])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(mask)
        dataset.build_overviews([2])
    raster = read_raster(path.read_bytes())
    assert raster.band_names == ("B8", "B2")
    np.testing.assert_array_equal(raster.valid, mask > 0)


def sparse(path, side=64, count=12):
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint16",
        count=count,
        height=side,
        width=side,
        crs="EPSG:32633",
        transform=from_origin(*ORIGIN, 10, 10),
        sparse_ok=True,
        tiled=True,
        compress="deflate",
    ):
        pass
    return path


@pytest.mark.parametrize(
    ("size", "limit", "message"),
    [
        ({"side": 16_384, "count": 13}, {}, "16384 x 16384 px, more than the limit"),
        ({"side": 64, "count": 3000}, {}, "3000 bands, more than the limit of 256"),
        ({"side": 11_000, "count": 20}, {}, r"decodes to \d+ MiB, more than the limit of 4096 MiB"),
        ({}, {"pixels": 1000}, "64 x 64 px, more than the limit of 1000 pixels"),
        ({}, {"bands": 6}, "12 bands, more than the limit of 6"),
        ({}, {"decoded_bytes": 50_000}, "more than the limit of 0 MiB"),
        ({}, {"deadline": -1.0}, "reading took longer than its time limit"),
    ],
)
def test_what_exceeds_the_budget_is_refused_at_once(tmp_path, size, limit, message):
    content = sparse(tmp_path / "a.tif", **size).read_bytes()
    budget = {"budget": Budget(**limit)} if limit else {}
    start = time.monotonic()
    with pytest.raises(ValueError, match=rf"raster of {len(content)} bytes: .*{message}"):
        read_raster(content, **budget)
    assert time.monotonic() - start < 5


def test_the_deadline_is_looked_at_between_strips(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(1, 4000, (2, 1600, 40)).astype(np.uint16)
    content = write_geotiff(tmp_path / "a.tif", pixels, names=["B2", "B3"], tiled=True).read_bytes()
    looks = []
    monkeypatch.setattr(Budget, "check_time", lambda self, name: looks.append(name))
    with open_raster(content, budget=Budget.for_seconds(30)) as reader:
        before = len(looks)
        whole = reader.read()
        assert len(looks) - before == 4
        decimated = reader.read(out_shape=(400, 10))
    np.testing.assert_array_equal(whole.pixels, pixels)
    with open_raster(tmp_path / "a.tif") as reader:
        np.testing.assert_array_equal(decimated.pixels, reader.read(out_shape=(400, 10)).pixels)


def test_strips_of_resampled_bands_equal_the_whole(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 4000, (2, 700, 30)).astype(np.uint16)
    path = write_geotiff(tmp_path / "a.tif", pixels, 20, names=["B5", "B6"])
    whole, strips = read_raster(path), read_raster(path, budget=Budget())
    np.testing.assert_allclose(strips.pixels, whole.pixels, atol=1e-3)
    np.testing.assert_array_equal(strips.valid, whole.valid)


def test_many_bands_cost_in_proportion(tmp_path, monkeypatch):
    calls = []
    original = rasterio.DatasetReader.colorinterp
    counted = property(lambda dataset: calls.append(1) or original.__get__(dataset))
    monkeypatch.setattr(rasterio.DatasetReader, "colorinterp", counted)
    path = write_geotiff(tmp_path / "a.tif", np.ones((1500, 4, 4), np.uint16), interleave="pixel")
    start = time.monotonic()
    assert read_raster(path).pixels.shape == (1500, 4, 4)
    assert len(calls) <= 2
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("resolution", "shape", "message"),
    [
        (10_000, (8, 8), "1000 times finer: expected at most 100 times"),
        (60, (2, 200_000), "a grid of 1200000 x 12 px, expected at most 1,000,000 px a side"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*on the ground")
def test_absurd_grids_are_refused(tmp_path, resolution, shape, message):
    path = write_geotiff(tmp_path / "a.tif", np.ones((1, *shape), np.uint8), resolution, names=["B2"])
    with pytest.raises(ValueError, match=rf"a\.tif: .*{message}"):
        read_raster(path)


# The folder's modules are loaded without its `__init__`, which would import torch and transformers.
RESTRICTED = """
import os, sys, types
import rasterio
package = sys.modules["modeling"] = types.ModuleType("modeling")
package.__path__ = [sys.argv[4]]
from modeling.untrusted import restrict_gdal
from modeling.rasters import read_raster
restrict_gdal()
with rasterio.Env() as env:
    print(sorted(env.drivers()))
os.environ |= {"AWS_S3_ENDPOINT": sys.argv[3], "AWS_HTTPS": "NO", "AWS_NO_SIGN_REQUEST": "YES"}
url = f"http://{sys.argv[3]}/canary.tif"
paths = [f"/vsicurl/{url}", f"/vsicurl_streaming/{url}", url, "/vsis3/b/a.tif", "/vsis3_streaming/b/a.tif"]
for path in [sys.argv[2], *paths, f"/vsiwebhdfs/{url}"]:
    try:
        rasterio.open(path)
        print("opened", path)
    except rasterio.errors.RasterioIOError:
        pass
print(read_raster(sys.argv[1], resolution=5).pixels.shape)
try:
    read_raster(open(sys.argv[2], "rb").read())
except ValueError:
    print("refused")
"""


def test_a_process_that_serves_keeps_two_formats_and_no_network(tmp_path, canary):
    plain = write_geotiff(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint16), names=["B2"])
    with rasterio.open(plain) as dataset:
        rasterio.shutil.copy(dataset, tmp_path / "a.vrt", driver="VRT")
    folder = Path(untrusted.__file__).parent
    command = [sys.executable, "-c", RESTRICTED, plain, tmp_path / "a.vrt", canary.url.split("/")[2], folder]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    expected = ["['COG', 'GTiff', 'JP2OpenJPEG', 'MEM']", "(1, 16, 16)", "refused"]
    assert result.stdout.splitlines() == expected, result.stderr
    assert not canary.touched()


def test_restricting_gdal_too_late_is_an_error():
    # The module stands alone, and importing it so costs no torch.
    program = "import rasterio, untrusted\nwith rasterio.Env(): pass\nuntrusted.restrict_gdal()"
    command, folder = [sys.executable, "-c", program], Path(untrusted.__file__).parent
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert "before the first raster is opened" in result.stderr


def test_bytes_of_all_bands_still_read_like_their_file(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 4000, (12, 40, 48)).astype(np.uint16)
    for driver in ({"driver": "GTiff"}, {"driver": "GTiff", "bigtiff": "yes"}, {"driver": "COG"}):
        path = write_geotiff(tmp_path / "a.tif", pixels, names=L2A_BANDS, **driver)
        np.testing.assert_array_equal(read_raster(path.read_bytes()).pixels, pixels)
