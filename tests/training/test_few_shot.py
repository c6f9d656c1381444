import torch

from spectralgpt_hf import SpectralGPTForImageClassification
from spectralgpt_hf.training.few_shot import FewShotRecipe, finetune_few_shot
from spectralgpt_hf.training.probing import LinearProbe
from tests.parity import config


def bright_and_dark(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    settings = config("toy")
    labels = torch.arange(count) % 2
    images = torch.randn(count, settings.num_channels, settings.image_size, settings.image_size, generator=generator)
    return images + 0.5 * (2 * labels - 1)[:, None, None, None], labels


def new_model() -> SpectralGPTForImageClassification:
    torch.manual_seed(0)
    settings = config("toy")
    settings.num_labels = 2
    return SpectralGPTForImageClassification(settings)


def test_the_head_starts_as_the_linear_probe_of_frozen_features():
    images, labels = bright_and_dark(16)
    model = new_model()
    finetune_few_shot(model, images, labels, FewShotRecipe(steps=0))
    with torch.no_grad():
        features = model.spectralgpt(images).pooler_output
        expected = LinearProbe(features, labels, 2, FewShotRecipe.weight_decay)(features)
        torch.testing.assert_close(model(images).logits, expected, rtol=0, atol=1e-4)


def test_all_layers_learn_and_the_same_seed_gives_the_same_model():
    images, labels = bright_and_dark(16)
    before, first, second = new_model(), new_model(), new_model()
    for model in (first, second):
        finetune_few_shot(model, images, labels, FewShotRecipe(steps=5), seed=3)
    for (name, old), new, again in zip(before.named_parameters(), first.parameters(), second.parameters()):
        assert not torch.equal(old, new), name
        assert torch.equal(new, again), name
    with torch.no_grad():
        assert (first(images).logits.argmax(1) == labels).float().mean() == 1
