import math
from pathlib import Path

import pytest
import torch

from spectralgpt_hf import SpectralGPTForPreTraining
from spectralgpt_hf.training.pretraining_terms import (
    COMPONENT_SCALE,
    StatisticsTerm,
    contrastive_loss,
    pooled_visible_tokens,
    view_statistics,
)
from spectralgpt_hf.training.views import Views
from tests.parity import config


def test_the_contrastive_loss_is_small_only_where_views_of_an_image_agree():
    torch.manual_seed(0)
    first = torch.randn(8, 32)
    agreeing = contrastive_loss(torch.cat([first, 3 * first]), 0.05)
    assert agreeing < 0.01
    assert contrastive_loss(torch.cat([first, first.roll(1, 0)]), 0.05) > 5
    same = torch.ones(16, 4)  # equal vectors, so that each of the 15 others is as likely
    assert contrastive_loss(same, 0.2).item() == pytest.approx(math.log(15))


def write_contrast(rank: int, folder: Path) -> None:
    """Write the loss and the gradient of the part of a batch that one of two processes holds."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    features = torch.load(folder / "features.pt")[:, 2 * rank : 2 * rank + 2].requires_grad_()
    loss = contrastive_loss(features.flatten(0, 1), 0.2)
    loss.backward()
    torch.save((loss.detach(), features.grad), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow  # new processes import everything
def test_two_processes_tell_an_image_from_those_of_both(tmp_path):
    torch.manual_seed(0)
    features = torch.randn(2, 4, 8)  # two views of four images
    torch.save(features, tmp_path / "features.pt")
    torch.multiprocessing.spawn(write_contrast, (tmp_path,), nprocs=2)
    losses, gradients = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)))
    features.requires_grad_()
    whole = contrastive_loss(features.flatten(0, 1), 0.2)
    whole.backward()
    assert [loss.item() for loss in losses] == pytest.approx([whole.item()] * 2)
    # Gradients are averaged over processes, each of which holds one part of the batch.
    torch.testing.assert_close(torch.cat(gradients, dim=1) / 2, features.grad)


def test_pooled_visible_tokens_are_what_the_encoder_pools_from_them():
    torch.manual_seed(0)
    model = SpectralGPTForPreTraining(config("toy")).eval()
    images = torch.randn(2, model.config.num_channels, model.config.image_size, model.config.image_size)
    tokens = model.config.num_channels // 3 * (model.config.image_size // 8) ** 2
    noise, attention_mask = torch.rand(2, tokens), torch.ones(2, tokens, dtype=torch.long)
    attention_mask[0, torch.rand(tokens) < 0.97] = 0  # fewer tokens with data than are kept
    output = model(images, noise=noise, attention_mask=attention_mask, output_hidden_states=True)
    kept = output.ids_restore.argsort(1)[:, : int((output.mask == 0).sum(1)[0])]
    expected = model.spectralgpt(images, attention_mask, kept).pooler_output
    assert torch.allclose(pooled_visible_tokens(model.spectralgpt, output, attention_mask), expected, atol=1e-6)


def test_the_statistics_term_is_small_only_for_features_that_hold_all_components_of_brightness_and_texture():
    torch.manual_seed(0)
    toy = config("toy")
    size = (toy.num_channels, toy.image_size, toy.image_size)
    images = torch.randn(256, 1, 1, 1) + torch.rand(256, 1, 1, 1) * torch.randn(256, *size)
    statistics = view_statistics(Views(pixel_values=images, noise=torch.empty(0), attention_mask=None), toy)
    term = StatisticsTerm(toy)
    term.fit(statistics)
    components = (statistics - term.mean) @ term.axes.T
    torch.testing.assert_close(components.T.cov(), torch.eye(components.shape[1]), atol=1e-3, rtol=0)
    pooled = COMPONENT_SCALE * components @ term.feature_axes
    assert term(pooled, statistics) < 1e-6
    assert term(pooled.roll(1, 0), statistics) > 0.8  # the components of another image
    last = term.feature_axes[-1:]  # of a component with a small share of the variance, which counts as much
    lacking = term(pooled - pooled @ last.T @ last, statistics)
    expected = 2 * torch.nn.functional.smooth_l1_loss(torch.zeros(256), components[:, -1]) / components.shape[1]
    torch.testing.assert_close(lacking, expected)


def test_statistics_of_views_leave_out_tokens_without_data():
    torch.manual_seed(0)
    toy = config("toy")
    images = torch.randn(2, toy.num_channels, toy.image_size, toy.image_size)
    mask = torch.ones(2, toy.num_groups, toy.image_size // 8, toy.image_size // 8, dtype=torch.long)
    mask[:, :, 0] = 0
    spoilt = images.clone()
    spoilt[:, :, :8] = 1e3
    whole, part = (
        view_statistics(Views(pixel_values=values, noise=torch.empty(0), attention_mask=mask.flatten(1)), toy)
        for values in (images, spoilt)
    )
    torch.testing.assert_close(whole, part)


def test_views_without_data_and_statistics_that_do_not_vary_have_no_part_in_the_statistics_term():
    torch.manual_seed(0)
    toy = config("toy")
    images = torch.randn(64, toy.num_channels, toy.image_size, toy.image_size)
    images[:, 0] = 0.5  # a band that is the same everywhere
    mask = torch.ones(64, toy.num_groups * (toy.image_size // 8) ** 2, dtype=torch.long)
    mask[3] = 0
    statistics = view_statistics(Views(pixel_values=images, noise=torch.empty(0), attention_mask=mask), toy)
    assert statistics.isnan().all(1).nonzero().flatten().tolist() == [3]
    term, without = StatisticsTerm(toy), StatisticsTerm(toy)
    others = torch.arange(64) != 3
    term.fit(statistics)
    without.fit(statistics[others])
    assert torch.equal(term.axes, without.axes)
    assert term.axes.abs().max() < 1e4
    assert not term.axes[:, :: toy.num_channels].any()  # of the constant band
    pooled = torch.randn(64, toy.hidden_size, requires_grad=True)
    loss = term(pooled, statistics)
    loss.backward()
    torch.testing.assert_close(loss, without(pooled[others], statistics[others]) * 63 / 64)
    assert pooled.grad.isfinite().all()
    assert not pooled.grad[3].any()
