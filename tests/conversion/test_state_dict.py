import json

import pytest
import torch

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForImageClassification
from spectralgpt_hf.conversion.architecture import ARCHITECTURES
from spectralgpt_hf.conversion.state_dict import NAMES, original_name, our_name, to_original, to_ours
from tests import parity


SHAPES = json.loads((parity.FOLDER / "original_parameter_shapes.json").read_text())
CASES = {
    "toy": "SpectralGPTForPreTraining",
    "base_96": "SpectralGPTForPreTraining",
    "base_128": "SpectralGPTForPreTraining",
    "segmentation_base_128": "SpectralGPTForSemanticSegmentation",
    "change_detection_base_128": "SpectralGPTForChangeDetection",
}


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_of_the_original_has_its_place_in_ours_and_no_other(case):
    overrides = {"segmentation_base_128": {"num_labels": 13}}.get(case, {})
    with torch.device("meta"):
        model = ARCHITECTURES[CASES[case]](parity.config(case if case in parity.SIZES else "base_128", **overrides))
        original = {name: torch.empty(shape) for name, shape in SHAPES[case].items()}

    ours = to_ours(original)

    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    assert {name: list(tensor.shape) for name, tensor in to_original(ours, model.config).items()} == SHAPES[case]


def test_no_name_occurs_twice_on_either_side_of_the_table():
    originals, ours = zip(*NAMES)
    assert len(set(originals)) == len(set(ours)) == len(NAMES)


def test_the_patch_projection_becomes_a_linear_map_of_the_same_values_in_the_same_order():
    kernel = torch.arange(2 * 192.0).reshape(2, 1, 3, 8, 8)

    ours = to_ours({"patch_embed.proj.weight": kernel})
    weight = ours["spectralgpt.embeddings.patch_embeddings.weight"]

    assert torch.equal(weight[1], kernel[1, 0].flatten())
    assert torch.equal(to_original(ours, SpectralGPTConfig())["patch_embed.proj.weight"], kernel)


def test_a_name_that_the_other_side_does_not_have_is_refused():
    with pytest.raises(
        ValueError, match=r"No tensor of the original SpectralGPT is called 'blocks\.0\.attn\.qkv\.weight'"
    ):
        our_name("blocks.0.attn.qkv.weight")
    with pytest.raises(ValueError, match=r"no counterpart of 'classifier\.weight'"):
        original_name("classifier.weight")


def test_a_classifier_has_no_original_layout():
    with torch.device("meta"):
        model = SpectralGPTForImageClassification(parity.config("toy"))
    with pytest.raises(ValueError, match="no counterpart"):
        to_original(model.state_dict(), model.config)
