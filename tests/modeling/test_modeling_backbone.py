"""The backbone: feature maps, options, and the heads of transformers on top of it."""

import pytest
import torch
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from spectralgpt_hf import SpectralGPTBackbone
from tests.modeling.networks import half_masked, images, small_config, small_model


CHECKPOINT = "spectralgpt_hf/assets/spectralgpt-tiny"


def test_the_backbone_gives_one_map_for_each_chosen_layer():
    backbone = small_model(SpectralGPTBackbone, out_features=["stage1", "stage3"])
    output = backbone(images(size=40))
    assert [tuple(feature.shape) for feature in output.feature_maps] == [(2, 48, 5, 5)] * 2
    assert backbone.channels == [48, 48]
    reference = backbone.spectralgpt(images(size=40))
    last = backbone.spectralgpt.feature_map(reference.last_hidden_state, 40, 40)
    torch.testing.assert_close(output.feature_maps[-1], last)


def test_upernet_of_transformers_trains_on_our_backbone_and_reloads(tmp_path):
    torch.manual_seed(0)
    config = UperNetConfig(
        backbone_config=small_config(out_features=["stage1", "stage2", "stage3"]),
        num_labels=3,
        hidden_size=32,
        pool_scales=[1, 2],
        use_auxiliary_head=False,
    )
    model = UperNetForSemanticSegmentation(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pixel_values, labels = images(), torch.randint(3, (2, 32, 32), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(2):
        loss = model(pixel_values, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    model.eval().save_pretrained(tmp_path)
    reloaded = UperNetForSemanticSegmentation.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(reloaded(pixel_values).logits, model(pixel_values).logits, rtol=0, atol=1e-6)


def test_concatenated_groups_are_the_tokens_of_each_group_and_those_without_data_are_zero():
    backbone = small_model(SpectralGPTBackbone, group_pooling="concat")
    (feature_map,) = backbone(images(), attention_mask=half_masked()).feature_maps
    tokens = backbone.spectralgpt(images(), attention_mask=half_masked()).last_hidden_state
    assert backbone.out_channels == backbone.channels == [4 * 48]
    assert backbone.patch_size == 8
    assert feature_map.shape == (2, 4 * 48, 4, 4)
    torch.testing.assert_close(feature_map[0, 48:96, 2, 1], tokens[0, 16 + 2 * 4 + 1])
    assert (feature_map[..., 2:] == 0).all()
    with pytest.raises(ValueError, match=r'`group_pooling="concat"` needs the 12 bands .* got 6'):
        backbone(images(num_channels=6))


def test_without_the_final_layernorm_the_feature_map_is_that_of_the_last_layer():
    backbone = small_model(SpectralGPTBackbone, apply_layernorm=False)
    (feature_map,) = backbone(images()).feature_maps
    last = backbone.spectralgpt(images()).last_layer_output
    torch.testing.assert_close(feature_map, backbone.spectralgpt.feature_map(last, 32, 32))


@pytest.mark.parametrize("layers", [{"out_indices": [3, 12]}, {"out_features": ["stage3", "stage12"]}])
def test_a_backbone_loads_from_a_folder_with_other_layers_and_keeps_them(layers, tmp_path):
    backbone = SpectralGPTBackbone.from_pretrained(CHECKPOINT, group_pooling="concat", **layers).eval()
    backbone.save_pretrained(tmp_path)
    reloaded = SpectralGPTBackbone.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        first, second = backbone(images(1)).feature_maps, reloaded(images(1)).feature_maps
    assert reloaded.out_indices == [3, 12]
    assert reloaded.out_channels == [4 * 192] * 2
    for before, after in zip(first, second):
        assert torch.equal(before, after)


@pytest.mark.parametrize("group_pooling", ["mean", "concat"])
def test_the_heads_of_transformers_train_on_the_embedded_checkpoint(group_pooling):
    backbone = SpectralGPTBackbone.from_pretrained(CHECKPOINT, out_indices=[3, 6, 9, 12], group_pooling=group_pooling)
    torch.manual_seed(0)
    upernet = UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=backbone.config, num_labels=3, hidden_size=32, use_auxiliary_head=False)
    )
    mask2former = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=backbone.config,
            num_labels=3,
            hidden_dim=32,
            feature_size=32,
            mask_feature_size=32,
            encoder_layers=1,
            decoder_layers=2,
            encoder_feedforward_dim=32,
            dim_feedforward=32,
            num_attention_heads=4,
            num_queries=5,
        )
    )
    upernet.backbone = backbone
    mask2former.model.pixel_level_module.encoder = backbone
    pixel_values = images(size=64)
    losses = {
        "upernet": upernet(pixel_values, labels=torch.randint(3, (2, 64, 64))).loss,
        "mask2former": mask2former(
            pixel_values,
            mask_labels=[torch.ones(1, 64, 64), torch.ones(1, 64, 64)],
            class_labels=[torch.tensor([0]), torch.tensor([1])],
        ).loss.squeeze(),
    }
    for name, loss in losses.items():
        backbone.zero_grad()
        loss.backward()
        gradient = backbone.spectralgpt.embeddings.patch_embeddings.weight.grad
        assert torch.isfinite(loss), name
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name
