import json

import pytest

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTModel


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_channels": 10}, r"`num_channels` must be a multiple of `spectral_patch_size` \(3 bands\), got 10"),
        ({"image_size": 100}, r"`image_size` must be a multiple of `patch_size` \(8 px\), got 100"),
        ({"masking": "blocks"}, r"`masking` must be one of 'random', 'spatial', 'spectral', got 'blocks'"),
        ({"mask_ratio": 1.0}, r"`mask_ratio` must be between 0 and 1, both excluded, got 1.0"),
        ({"mask_ratio": 0}, r"`mask_ratio` must be between 0 and 1, both excluded, got 0"),
        ({"decode_ratio": 0.0}, "`decode_ratio` must be above 0 and at most 1, got 0.0"),
        ({"decode_ratio": 1.5}, "`decode_ratio` must be above 0 and at most 1, got 1.5"),
        ({"group_pooling": "max"}, "`group_pooling` must be one of 'mean', 'concat', got 'max'"),
        ({"num_channels": 9}, r"`bands` must be a list of 9 names"),
        ({"bands": ["B2", "B3", "B4"]}, r"`bands` must be a list of 12 names \(`num_channels`\)"),
        ({"hidden_size": 100}, r"`hidden_size` must be a multiple of `num_attention_heads` \(12\), got 100"),
        ({"decoder_hidden_size": 100}, r"`decoder_hidden_size` must be a multiple of `decoder_num_attention_heads`"),
        ({"drop_path_rate": 1.0}, r"`drop_path_rate` must be in \[0, 1\), got 1.0"),
        ({"num_hidden_layers": 0}, r"`num_hidden_layers` must be positive, got 0"),
        ({"bands": ["B02", "B3", "B44"], "num_channels": 3}, "B44"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected_and_found(wrong, message):
    with pytest.raises(ValueError, match=message):
        SpectralGPTConfig(**wrong)


def test_a_value_spoilt_after_construction_is_refused_when_a_model_is_built():
    config = SpectralGPTConfig.from_preset("tiny")
    config.masking = "blocks"
    with pytest.raises(ValueError, match="`masking` must be one of"):
        SpectralGPTModel(config)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="Unknown preset 'giant': expected one of tiny, base, large, huge"):
        SpectralGPTConfig.from_preset("giant")


def test_bands_are_kept_under_their_canonical_names():
    config = SpectralGPTConfig(num_channels=3, bands=["b02", "green", "B04"])
    assert config.bands == ["B2", "B3", "B4"]


def test_every_attribute_survives_saving(tmp_path):
    config = SpectralGPTConfig.from_preset(
        "tiny", masking="spatial", mask_ratio=0.75, num_channels=3, bands=["B2", "B3", "B4"], norm_pix_loss=True
    )
    config.save_pretrained(tmp_path)
    reloaded = SpectralGPTConfig.from_pretrained(tmp_path)
    ignored = {"_name_or_path", "transformers_version"}
    assert {k: v for k, v in reloaded.to_dict().items() if k not in ignored} == {
        k: v for k, v in config.to_dict().items() if k not in ignored
    }


def test_a_saved_config_names_every_class_and_carries_the_code(tmp_path):
    SpectralGPTConfig.from_preset("tiny").save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"]["AutoModel"] == "modeling_spectralgpt.SpectralGPTModel"
    assert saved["auto_map"]["AutoImageProcessor"] == "image_processing_spectralgpt.SpectralGPTImageProcessor"
    assert set(saved["custom_pipelines"]) >= {"multispectral-image-classification", "multispectral-feature-extraction"}
    for reference in saved["auto_map"].values():
        module, name = reference.split(".")
        assert f"class {name}" in (tmp_path / f"{module}.py").read_text()
