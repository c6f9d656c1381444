import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from spectralgpt_hf.inference.archive_sources import ArchiveSource, check_stems, find_sources
from spectralgpt_hf.modeling.rasters import read_raster

from .scenes import write_scene


def item(identifier, href):
    assets = {"B04": {"href": href}, "thumbnail": {"href": "t.png"}}
    properties = {"datetime": "2020-03-04T00:00:00Z"}
    return {"type": "Feature", "stac_version": "1.0.0", "id": identifier, "properties": properties, "assets": assets}


@pytest.fixture
def archive(tmp_path):
    """A folder of files, a folder of bands, a STAC item, and what is no scene."""
    (tmp_path / "year").mkdir()
    for name in ("a", "b"):
        write_scene(tmp_path / "year" / f"{name}.tif")
    bands = tmp_path / "year" / "bands"
    bands.mkdir()
    for band in ("B02", "B03", "B04"):
        (bands / f"S_{band}.tif").write_bytes((tmp_path / "year" / "a.tif").read_bytes())
    (tmp_path / "year" / "item.json").write_text(json.dumps(item("one", "bands/S_B04.tif")))
    (tmp_path / "year" / "notes.json").write_text("{}")
    (tmp_path / "year" / "readme.md").write_text("no scene")
    return tmp_path


def names(sources):
    return [source.stem for source in sources]


def test_a_folder_holds_files_products_and_items_at_any_depth(archive):
    assert names(find_sources(archive)) == ["a", "b", "bands", "one"]


def test_results_in_a_folder_of_scenes_are_no_sources(archive):
    results = archive / "results"
    results.mkdir()
    write_scene(results / "a.tif")
    found = item("a", "a.tif") | {"links": [{"rel": "emb:model", "href": "stac_item.json"}]}
    for path in (results / "a.tif.stac.json", archive / "year" / "b.parquet.stac.json"):
        path.write_text(json.dumps(found))
    assert names(find_sources(archive, results)) == ["a", "b", "bands", "one"]
    assert names(find_sources(str(archive / "**" / "[ab].tif"), results)) == ["a", "b"]
    assert names(find_sources(results, results)) == ["a"]


def test_paths_become_absolute_and_repetitions_one(archive, monkeypatch):
    monkeypatch.chdir(archive)
    (archive / "list.txt").write_text("year/a.tif\n\nyear/b.tif\n")
    found = find_sources(["list.txt", "year/*.tif", "year/a.tif"])
    assert [source.name for source in found] == [str(archive / "year" / name) for name in ("a.tif", "b.tif")]


def test_relative_links_of_an_item_lead_to_its_folder(archive):
    (source,) = find_sources(archive / "year" / "item.json")
    assert read_raster(source.open()).band_names == ("B4",)


def test_item_collections_and_parsed_items_are_sources(archive, tmp_path):
    href = str(archive / "year" / "bands" / "S_B04.tif")
    collection = {"type": "FeatureCollection", "features": [item("one", href), item("two", href)]}
    (tmp_path / "items.json").write_text(json.dumps(collection))
    assert names(find_sources(tmp_path / "items.json")) == names(find_sources(collection)) == ["one", "two"]
    pystac = pytest.importorskip("pystac")
    items = [pystac.Item.from_dict({**each, "links": [], "geometry": None}) for each in collection["features"]]
    assert names(find_sources(items)) == names(find_sources(pystac.ItemCollection(items))) == ["one", "two"]


def test_urls_keep_their_signature_for_reading_only():
    urls = ["https://host/data/scene.tif?sig=secret", "s3://bucket/other.tif", "/vsis3/bucket/third.tif"]
    found = find_sources(urls)
    assert names(found) == ["scene", "other", "third"]
    assert [source.text for source in found] == urls
    assert found[0].name == "https://host/data/scene.tif"


def test_an_item_behind_a_url_is_fetched_and_its_links_follow_it(archive):
    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(archive))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}/year"
        (source,) = find_sources(f"{base}/item.json?token=secret")
        assert source.open()["assets"]["B04"]["href"] == f"{base}/bands/S_B04.tif"
        assert (source.name, source.stem) == ("one", "one")
        with pytest.raises(ValueError, match=r"missing\.json: expected a STAC item"):
            find_sources(f"{base}/missing.json")
    finally:
        server.shutdown()


def test_what_is_no_scene_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none"):
        find_sources(tmp_path / "*.tif")
    (tmp_path / "text.json").write_text("no")
    with pytest.raises(ValueError, match=r"text\.json: expected a STAC item"):
        find_sources(tmp_path / "text.json")


def test_scenes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="Several scenes are called scene"):
        check_stems([ArchiveSource("/a/scene.tif", "/a/scene.tif"), ArchiveSource("/b/scene.tif", "/b/scene.tif")])
