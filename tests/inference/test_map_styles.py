from xml.etree import ElementTree as xml

import rasterio

from spectralgpt_hf.inference import predict_scene

from .scenes import processor, segmenter, write_scene


def test_the_style_beside_a_map_names_and_colours_its_classes(tmp_path):
    model = segmenter(class_codes=[10, 0, 20])
    model.config.id2label = {0: "water", 1: "forest & shrubs", 2: "x"}
    model.config.label2id = {name: number for number, name in model.config.id2label.items()}
    path = predict_scene(model, processor(), write_scene(tmp_path / "s.tif"), tmp_path / "map.tif", progress=False)
    renderer = xml.parse(path.with_suffix(".qml")).find("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    entries = renderer.findall("colorPalette/paletteEntry")
    names = {int(entry.get("value")): entry.get("label") for entry in entries}
    assert names == {10: "water", 0: "forest & shrubs", 20: "x"}
    with rasterio.open(path) as file:
        colours = file.colormap(1)
    for entry in entries:
        assert entry.get("color") == "#{:02x}{:02x}{:02x}".format(*colours[int(entry.get("value"))][:3])
