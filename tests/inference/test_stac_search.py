"""The search of a STAC API, against a server on this machine: STAC API 1.0 with pages, and links that are signed."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform_bounds
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf.inference.stac_search import choose_item, cloud_cover, covered_share, search_items
from spectralgpt_hf.modeling.bands import L1C_BANDS

from .scenes import classifier, processor, segmenter, write_scene


CONFORMANCE = [f"https://api.stacspec.org/v1.0.0/{part}" for part in ("core", "item-search")]
SIGNATURE = "sig=secret"
BANDS = [{"name": band} for band in L1C_BANDS]


def item(identifier, url, bounds, clouds, day):
    west, south, east, north = bounds
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": identifier,
        "collection": "sentinel-2-l2a",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [*bounds],
        "properties": {"datetime": f"2024-07-{day:02}T10:00:00Z", "platform": "sentinel-2a", "eo:cloud_cover": clouds},
        "assets": {
            "data": {"href": f"{url}/files/scene.tif?{SIGNATURE}", "eo:bands": [{"name": band} for band in L1C_BANDS]}
        },
        "links": [],
    }


class Handler(BaseHTTPRequestHandler):
    """A STAC API with one item per page, and files that are given only for a signature, in ranges."""

    def log_message(self, *_):
        pass

    def answer(self, status, content, headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, content):
        self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/geo+json"})

    def do_POST(self):
        server, query = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.queries.append(query)
        page = query.get("page", 0)
        more = {
            "rel": "next",
            "href": f"{server.url}/search",
            "method": "POST",
            "merge": True,
            "body": {"page": page + 1},
        }
        links = [more] if page + 1 < len(server.items) else []
        self.answer_json({"type": "FeatureCollection", "features": server.items[page : page + 1], "links": links})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, parts = self.server, urlsplit(self.path)
        if parts.path == "/":
            links = [
                {"rel": "search", "href": f"{server.url}/search", "type": "application/geo+json", "method": "POST"}
            ]
            links += [{"rel": name, "href": server.url} for name in ("self", "root")]
            root = {"type": "Catalog", "stac_version": "1.0.0", "id": "api", "description": "api", "links": links}
            self.answer_json({**root, "conformsTo": CONFORMANCE})
        elif parts.path == "/files/scene.tif" and parts.query == SIGNATURE:
            content = server.file.read_bytes()
            wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted is None:
                self.answer(200, content, {"Accept-Ranges": "bytes"})
                return
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            self.answer(206, content[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(content)}"})
        else:
            self.answer(403, b"")


@pytest.fixture
def api(tmp_path):
    file = write_scene(tmp_path / "scene.tif")
    with rasterio.open(file) as scene:
        bounds = transform_bounds(scene.crs, "EPSG:4326", *scene.bounds)
    west, south, east, north = bounds
    half = (west, south, (west + east) / 2, north)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.url, server.file, server.queries = f"http://127.0.0.1:{server.server_port}", file, []
        server.bounds = bounds
        found = (("cloudy", bounds, 80, 9), ("half", half, 0, 3), ("clear", bounds, 5, 6), ("as clear", bounds, 5, 1))
        server.items = [item(name, server.url, footprint, clouds, day) for name, footprint, clouds, day in found]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def inner(bounds):
    """Return a region within bounds."""
    west, south, east, north = bounds
    return [west + 0.2 * (east - west), south + 0.2 * (north - south), east - 0.2 * (east - west), north]


def test_all_pages_are_read_in_the_order_of_time_and_clouds_are_bounded(api):
    found = search_items(api.url, "sentinel-2-l2a", bbox=api.bounds, datetime="2024-07-01/2024-07-31")
    assert [one["id"] for one in found] == ["as clear", "half", "clear", "cloudy"]
    assert len(api.queries) == 4
    for query in api.queries:
        assert query["collections"] == ["sentinel-2-l2a"]
        assert query["bbox"] == list(api.bounds)
        assert query["datetime"].startswith("2024-07-01T00:00:00Z/2024-07-31")
    found = search_items(api.url, "sentinel-2-l2a", max_cloud=5)
    assert [cloud_cover(one) for one in found] == [5, 0, 5]
    del api.items[2]["properties"]["eo:cloud_cover"]
    assert len(search_items(api.url, "sentinel-2-l2a", max_cloud=5)) == 2
    assert choose_item(api.items, inner(api.bounds))["id"] == "as clear"
    with pytest.raises(ValueError, match=r"found 4 items of sentinel-2-l2a .* clouds of at most -1 %"):
        search_items(api.url, "sentinel-2-l2a", max_cloud=-1)


def test_the_clearest_item_that_covers_the_whole_region_is_chosen(api):
    assert covered_share(api.items[1], api.bounds) == pytest.approx(0.5, abs=0.01)
    assert choose_item(api.items, inner(api.bounds))["id"] == "clear"
    with pytest.raises(ValueError, match="half covers most of it, 50%"):
        choose_item(api.items[1:2], api.bounds)


def test_what_is_no_api_is_an_error(api):
    with pytest.raises(ValueError, match="expected a STAC API"):
        search_items(f"{api.url}/files", "sentinel-2-l2a")


def test_a_place_and_a_time_give_the_map_of_the_file_itself(api, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    classifier().save_pretrained(checkpoint)
    processor().save_pretrained(checkpoint)
    bbox = ",".join(map(str, inner(api.bounds)))
    search = ["--stac", api.url, "--collection", "sentinel-2-l2a", "--bbox", bbox, "--max-cloud", "20"]
    result = CliRunner().invoke(app, ["predict", str(checkpoint), str(tmp_path / "found.tif"), *search])
    assert result.exit_code == 0, result.output
    assert "clear, 2024-07-06T10:00:00Z, clouds: 5 %" in result.output
    area = ["--area", bbox, "--area-crs", "EPSG:4326"]
    direct = ["predict", str(checkpoint), str(api.file), str(tmp_path / "direct.tif"), *area]
    assert CliRunner().invoke(app, direct).exit_code == 0
    with rasterio.open(tmp_path / "found.tif") as found, rasterio.open(tmp_path / "direct.tif") as expected:
        np.testing.assert_array_equal(found.read(), expected.read())
        assert found.transform == expected.transform
        assert "secret" not in json.dumps(found.tags())


@pytest.mark.slow
def test_a_series_takes_all_items_that_are_found(api, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    segmenter().save_pretrained(checkpoint)
    processor().save_pretrained(checkpoint)
    bbox = ",".join(map(str, inner(api.bounds)))
    search = ["--stac", api.url, "--collection", "sentinel-2-l2a", "--bbox", bbox, "--max-cloud", "20", "--series"]
    result = CliRunner().invoke(app, ["predict", str(checkpoint), str(tmp_path / "map.tif"), *search])
    assert result.exit_code == 0, result.output
    assert "3 dates: as clear, half, clear" in result.output
    with rasterio.open(tmp_path / "map.tif") as found:
        assert [day for day in ("01", "03", "06") if f"2024-07-{day}" in found.tags()["dates"]] == ["01", "03", "06"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scene.tif", "map.tif", "--bbox", "0,0,1,1"], "`--bbox` has no effect without `--stac`"),
        (["scene.tif", "map.tif", "--stac", "http://x", "--collection", "c"], "Expected no SOURCE"),
        (["map.tif", "--stac", "http://x", "--bbox", "0,0,1,1"], "`--stac` needs `--collection`"),
        (["map.tif", "--stac", "http://x", "--collection", "c"], "`--stac` needs `--bbox`"),
        (["map.tif", "--stac", "http://x", "--collection", "c", "--bbox", "0,0"], "expected west,south,east,north"),
        (["map.tif", "--stac", "http://x", "--collection", "c", "--bbox", "1,0,0,1"], "expected west,south,east,north"),
        (["map.tif"], "Expected SOURCE and DESTINATION"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(arguments, message):
    result = CliRunner().invoke(app, ["predict", "tiny", *arguments])
    assert result.exit_code != 0
    assert message in " ".join(result.output.split())
