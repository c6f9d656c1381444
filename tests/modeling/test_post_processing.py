"""One rule for every map: which class a pixel gets, in pipelines, whole scenes, the page and the handler."""

import base64
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForSemanticSegmentation, SpectralGPTImageProcessor
from spectralgpt_hf.inference import predict_scene
from spectralgpt_hf.modeling.pipeline_spectralgpt import MultispectralImageSegmentationPipeline
from spectralgpt_hf.modeling.post_processing import choose_classes, class_colours, map_class_names
from spectralgpt_hf.modeling.rasters import read_raster
from spectralgpt_hf.serving import endpoint_handler
from spectralgpt_hf.serving.tasks import Models
from spectralgpt_hf.serving.uploads import read_upload
from tests.inference.scenes import processor, read, segmenter, write_scene
from tests.serving.checkpoints import save_checkpoint


def test_every_class_has_a_colour_of_its_own():
    colours = class_colours(["water", "river", *map(str, range(30)), "rice"])
    assert len({tuple(colour) for colour in colours.tolist()}) == 33
    assert colours[0].tolist() == [40, 110, 200]
    assert colours[32].tolist() != [225, 240, 250]  # rice is no ice


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_rule_is_the_probability_and_the_same_for_arrays_and_tensors(threshold):
    logits = torch.randn(2, 40, 40, generator=torch.Generator().manual_seed(0)) * 4
    logits[:, 0] = 0  # a probability of just 0.5
    for pair, probability in (
        (logits, logits.double().softmax(0)[1]),
        (logits[1:], logits[1].double().sigmoid()),
    ):
        found = choose_classes(pair, threshold)
        assert torch.equal(found, (probability >= threshold).long())
        assert found.dtype == torch.int64
        np.testing.assert_array_equal(choose_classes(pair.numpy(), threshold), found.numpy())
    assert torch.equal(choose_classes(logits[:1]), (logits[0] >= 0).long())


def test_several_classes_take_the_largest_logit_and_no_threshold():
    logits = torch.randn(3, 8, 8)
    assert torch.equal(choose_classes(logits), logits.argmax(0))
    for threshold in (0.5, -1.0, float("nan")):
        with pytest.raises(ValueError, match="for one or two classes"):
            choose_classes(logits, threshold)
    with pytest.raises(ValueError, match="`threshold` is for models of one class, found 3"):
        SpectralGPTImageProcessor().post_process_semantic_segmentation(
            SimpleNamespace(logits=logits[None]), threshold=0.5
        )


def test_the_map_of_one_class_also_names_its_absence():
    assert map_class_names({0: "water"}, 1) == ["not water", "water"]
    assert map_class_names({0: "water", 1: "land"}, 2) == ["water", "land"]


def test_one_class_is_mapped_alike_by_scene_pipeline_page_and_handler(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint_handler, "_restrict_gdal", lambda path: None)  # it is for a process of its own
    model, path = segmenter(num_labels=1), write_scene(tmp_path / "scene.tif", width=64, height=64)
    model.decode_head.classifier.bias.data -= 0.3
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    expected = read(predict_scene(model, processor(), path, tmp_path / "map.tif", progress=False))[0]
    assert set(np.unique(expected)) == {0, 1}
    segment = MultispectralImageSegmentationPipeline(model=model, image_processor=processor(), device="cpu")
    result = segment(path)
    np.testing.assert_array_equal(result["map"].pixels[0], expected)
    assert {entry["label"] for entry in result["labels"]} == {"class 0", "not class 0"}
    assert segment(path, threshold=0.0)["map"].pixels.all()

    page = Models(save_checkpoint("features", tmp_path / "pretrained"), segmentation=folder)
    classes, areas = page.segment(read_upload(path))
    np.testing.assert_array_equal(classes, expected)
    assert [area.name for area in areas] == ["not class 0", "class 0"]

    handler = endpoint_handler.EndpointHandler(str(folder))
    answer = handler({"inputs": path.read_bytes(), "parameters": {}})
    np.testing.assert_array_equal(read_raster(base64.b64decode(answer["map"])).pixels[0], expected)
    everything = handler({"inputs": path.read_bytes(), "parameters": {"threshold": 0.0}})
    assert read_raster(base64.b64decode(everything["map"])).pixels.all()


def test_one_class_learns_from_zeros_and_ones():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = SpectralGPTConfig(**sizes, image_size=16, decode_hidden_size=16, num_labels=1)
    model = SpectralGPTForSemanticSegmentation(config)
    labels = torch.randint(0, 2, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    labels[0, :4] = 255
    output = model(torch.rand(2, 12, 16, 16), labels=labels)
    counted = labels != 255
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        output.logits[:, 0][counted], labels[counted].float()
    )
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert model.decode_head.classifier.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="`class_weights` must be"):
        SpectralGPTConfig(num_labels=1, class_weights=[2.0])
    with pytest.raises(ValueError, match="must not be the number of a class"):
        SpectralGPTForSemanticSegmentation(SpectralGPTConfig(**sizes, num_labels=1, semantic_loss_ignore_index=1))
