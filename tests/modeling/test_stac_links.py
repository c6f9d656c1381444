import pytest

from spectralgpt_hf.modeling.stac_links import join_href, link_assets


@pytest.mark.parametrize(
    ("folder", "href", "expected"),
    [
        ("", "./B02.tif", "./B02.tif"),
        ("/data/item", "../B02.tif", "/data/B02.tif"),
        ("https://host/items", "./B02.tif", "https://host/items/B02.tif"),
        ("https://host/items", "../B02.tif?sig=1", "https://host/B02.tif?sig=1"),
        ("/data", "/other/B02.tif", "/other/B02.tif"),
        ("https://host", "/vsis3/bucket/B02.tif", "/vsis3/bucket/B02.tif"),
        ("/data", "s3://bucket/B02.tif", "s3://bucket/B02.tif"),
    ],
)
def test_links_are_relative_to_a_folder_or_a_url(folder, href, expected):
    assert join_href(folder, href) == expected


def test_assets_without_a_link_are_left_out_and_the_item_is_not_changed():
    item = {"id": "one", "assets": {"B2": {"href": "B02.tif", "title": "blue"}, "info": {"title": "no link"}}}
    assert link_assets(item, "/data") == {"id": "one", "assets": {"B2": {"href": "/data/B02.tif", "title": "blue"}}}
    assert item["assets"]["B2"]["href"] == "B02.tif"
    assert link_assets({"id": "none"}, "/data")["assets"] == {}
