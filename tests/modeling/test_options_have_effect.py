"""Every option of the processor and of the configuration changes what comes out and is recorded.

The tests go through the signatures: a new option fails them until it is listed below with an example that changes
something, or with the reason why it cannot.
"""

import functools
import inspect
import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from spectralgpt_hf import (
    SpectralGPTBackbone,
    SpectralGPTConfig,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTImageProcessor,
    SpectralGPTModel,
)
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.image_processing_spectralgpt import SpectralGPTImageProcessorKwargs, measure_statistics


RNG = np.random.default_rng(0)
PIXELS = RNG.integers(100, 8000, (12, 36, 32)).astype(np.uint16)
PIXELS[:, :9, :9] = 0
LABELS = RNG.integers(0, 3, (36, 32))
ZSCORE = {"normalization": "zscore", "mean": [1500.0] * 12, "std": [700.0] * 12}
ONE, OTHER = (measure_statistics(PIXELS.astype(np.float32) + 1000 * number) for number in (0, 1))
ELEVEN = {"pixels": PIXELS[:11], "band_names": L2A_BANDS[:11]}
REVERSED = list(L2A_BANDS[::-1])

# What a processor needs beside an attribute, and a value of it that changes what comes out.
ATTRIBUTES: dict[str, tuple[dict[str, Any], Any]] = {
    "bands": ({}, REVERSED),
    "normalization": ({}, "percentile"),
    "statistics_scope": ({"statistics": ONE}, "given"),
    "mean": (ZSCORE, [900.0] * 12),
    "std": (ZSCORE, [900.0] * 12),
    "statistics": ({"statistics_scope": "given", "statistics": ONE}, OTHER),
    "size": ({}, 24),
    "do_resize": ({"size": 24}, False),
    "do_center_crop": ({"crop_size": 16}, True),
    "crop_size": ({"crop_size": 16, "do_center_crop": True}, 24),
    "do_pad": ({}, False),
    "missing_bands": ({"missing_bands": "nearest"}, "mean"),
    "patch_size": ({}, 4),
    "spectral_patch_size": ({}, 2),
    "sensor": ({"bands": ["B2", "B3", "B4", "B5", "B6", "B7"]}, "landsat-8"),
    "wavelengths": ({"sensor": "camera", "missing_bands": "nearest"}, [400.0 + 50 * band for band in range(12)]),
}

# The same for the arguments of a call.
CALL: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "band_names": ({}, {}, REVERSED),
    "nodata": ({}, {}, int(PIXELS[0, 20, 20])),
    "offset": (ZSCORE, {}, -500),
    "mask": ({}, {}, np.arange(36)[:, None] * np.ones((1, 32)) < 16),
    "statistics": ({}, {}, OTHER),
    "segmentation_maps": ({}, {}, LABELS),
    "return_tensors": ({}, {}, "np"),
    "report": ({}, {}, True),
    "do_resize": ({"size": 24}, {}, False),
    "do_center_crop": ({"crop_size": 16}, {}, True),
    "size": ({}, {}, 24),
    "crop_size": ({"crop_size": 16, "do_center_crop": True}, {}, 24),
    "missing_bands": ({"missing_bands": "nearest"}, {}, "mean"),
    "ignore_index": ({}, {"segmentation_maps": LABELS}, -100),
    "sensor": ({}, {}, "landsat-8"),
    "match": ({}, {"sensor": "hls-s30"}, "wavelength"),
}
OPERATIONAL = {
    "device": "says where to compute",
    "warn": "silences warnings",
}


def process(attributes: dict[str, Any], **call: Any) -> str:
    """Return what comes out, or the error, as text."""
    lacking = attributes.get("missing_bands") is not None
    image = ELEVEN if lacking else {"pixels": PIXELS, "band_names": L2A_BANDS}
    call = {"band_names": image["band_names"], **call}
    try:
        found = SpectralGPTImageProcessor(**attributes)(image["pixels"], **call)
    except ValueError as error:
        return str(error)
    batch = found[0] if isinstance(found, tuple) else found
    return repr([type(found), *((name, type(value), np.asarray(value).tolist()) for name, value in batch.items())])


def test_every_option_of_the_processor_is_listed():
    assert set(ATTRIBUTES) == set(SpectralGPTImageProcessorKwargs.__annotations__)
    arguments = inspect.signature(SpectralGPTImageProcessor.preprocess).parameters
    assert set(CALL) | set(OPERATIONAL) == set(arguments) - {"self", "images"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_of_the_processor_changes_the_input_and_is_saved(name, tmp_path):
    base, value = ATTRIBUTES[name]
    changed = base | {name: value}
    assert process(changed) != process(base)
    SpectralGPTImageProcessor(**changed).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    kept = SpectralGPTImageProcessor(**changed).to_dict()[name]
    assert saved[name] == json.loads(json.dumps(kept))
    assert saved[name] != SpectralGPTImageProcessor(**base).to_dict().get(name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALL)
def test_an_argument_of_a_call_changes_what_comes_out(name):
    attributes, base, value = CALL[name]
    assert process(attributes, **base, **{name: value}) != process(attributes, **base)


SIZES = {
    "image_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
    "decode_hidden_size": 16,
    "decode_dropout": 0.0,
    "num_labels": 3,
}
SIX = {"num_channels": 6, "bands": list(L2A_BANDS[:6])}

CONFIGURATION: dict[str, tuple[dict[str, Any], Any]] = {
    "image_size": ({}, 32),
    "patch_size": ({}, 16),
    "num_channels": ({"bands": list(L2A_BANDS[:6])}, 6),
    "spectral_patch_size": ({}, 4),
    "hidden_size": ({}, 48),
    "num_hidden_layers": ({}, 1),
    "num_attention_heads": ({}, 4),
    "intermediate_size": ({}, 48),
    "hidden_act": ({}, "relu"),
    "attention_probs_dropout_prob": ({}, 0.5),
    "drop_path_rate": ({}, 0.9),
    "layer_norm_eps": ({}, 1e-1),
    "initializer_range": ({}, 0.1),
    "decoder_hidden_size": ({}, 48),
    "decoder_num_hidden_layers": ({}, 2),
    "decoder_num_attention_heads": ({}, 4),
    "decoder_intermediate_size": ({}, 48),
    "mask_ratio": ({}, 0.5),
    "masking": ({}, "spectral"),
    "decode_ratio": ({}, 0.5),
    "norm_pix_loss": ({}, True),
    "token_loss_weight": ({}, 2.0),
    "spectral_loss_weight": ({}, 2.0),
    "classifier_dropout": ({}, 0.5),
    "pixel_skip": ({}, True),
    "decode_hidden_size": ({}, 32),
    "decode_dropout": ({}, 0.5),
    "class_weights": ({}, [1.0, 2.0, 3.0]),
    "semantic_loss_ignore_index": ({}, 7),
    "group_pooling": ({}, "concat"),
    "apply_layernorm": ({}, False),
    "temporal_fusion": ({}, "attention"),
    "_out_features": ({}, ["stage1"]),
    "_out_indices": ({}, [1]),
}
CHECKED = {
    "bands": "are compared with those of the processor wherever the two meet",
    "sensor": "is compared with that of the processor wherever the two meet",
    "wavelengths": "decide the positions that `resize_bands` gives",
    "class_codes": "are what maps hold, in inference/test_prediction.py",
}
ARGUMENTS = {"_out_features": "out_features", "_out_indices": "out_indices"}


def build_config(options: dict[str, Any]) -> SpectralGPTConfig:
    settings = {**SIZES, **options}
    if "num_channels" not in settings and len(settings.get("bands") or L2A_BANDS) != 12:
        settings |= {"bands": None}
    return SpectralGPTConfig(**{ARGUMENTS.get(name, name): value for name, value in settings.items()})


def compute(config: SpectralGPTConfig) -> str:
    """Return losses and outputs of the models in training mode, as text."""
    found = []
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, config.num_channels, 32, 32, generator=generator)
    labels = torch.randint(0, 3, (2, 32, 32), generator=generator)
    labels[0, :8] = 255 if config.semantic_loss_ignore_index == 255 else config.semantic_loss_ignore_index
    for model_class, given in (
        (SpectralGPTForPreTraining, {}),
        (SpectralGPTForImageClassification, {"labels": torch.tensor([0, 2])}),
        (SpectralGPTForSemanticSegmentation, {"labels": labels}),
        (SpectralGPTBackbone, {}),
    ):
        torch.manual_seed(0)
        model = model_class(config).train()
        torch.manual_seed(0)
        output = model(pixels, **given)
        tensors = output.feature_maps if model_class is SpectralGPTBackbone else (output.loss, output.logits)
        found += [(tuple(tensor.shape), tensor.double().sum().item()) for tensor in tensors]
    torch.manual_seed(0)
    series = torch.stack([pixels, pixels.flip(-1)], dim=1)
    output = SpectralGPTModel(config).eval()(series, dates=torch.tensor([[10, 200]] * 2))
    return repr([*found, output.pooler_output.double().sum().item()])


def test_every_option_of_the_configuration_is_listed():
    own = {name for name in SpectralGPTConfig.__annotations__ if not name.startswith("__")}
    own &= {entry.name for entry in fields(SpectralGPTConfig)}
    assert set(CONFIGURATION) | set(CHECKED) == own - {"model_type", "_auto_class"}


@functools.cache
def computed_without(base: str) -> str:
    """Most options are compared with the same base, which is given as JSON."""
    return compute(build_config(json.loads(base)))


@pytest.mark.parametrize("name", sorted(set(CONFIGURATION) - {"semantic_loss_ignore_index"}))
def test_an_option_of_the_configuration_changes_the_outputs_and_is_saved(name, tmp_path):
    base, value = CONFIGURATION[name]
    config = build_config(base | {name: value})
    outputs = compute(config)
    assert outputs != computed_without(json.dumps(base))
    config.save_pretrained(tmp_path)
    loaded = SpectralGPTConfig.from_pretrained(tmp_path)
    assert list(loaded.out_indices) == list(config.out_indices)
    if name not in ARGUMENTS:
        assert json.loads((tmp_path / "config.json").read_text())[name] == value
        assert getattr(loaded, name) == value
    assert compute(loaded) == outputs


def test_the_ignored_label_is_the_one_of_the_configuration():
    ignoring, counting = build_config({"semantic_loss_ignore_index": 7}), build_config({})
    torch.manual_seed(0)
    model = SpectralGPTForSemanticSegmentation(counting)
    pixels, labels = torch.rand(1, 12, 16, 16), torch.randint(0, 3, (1, 16, 16))
    labels[:, :8] = 255
    expected = model.eval()(pixels, labels=labels).loss
    torch.manual_seed(0)
    other = SpectralGPTForSemanticSegmentation(ignoring).eval()
    torch.testing.assert_close(other(pixels, labels=labels.masked_fill(labels == 255, 7)).loss, expected)
    assert ignoring.to_dict()["semantic_loss_ignore_index"] == 7


def test_a_preset_takes_no_unknown_attribute():
    assert SpectralGPTConfig.from_preset("tiny", num_labels=3, out_indices=[3]).num_labels == 3
    with pytest.raises(ValueError, match="no attribute hiden_size"):
        SpectralGPTConfig.from_preset("tiny", hiden_size=3)
