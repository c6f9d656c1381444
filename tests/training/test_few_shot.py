import torch

from spectralgpt_hf import SpectralGPTForImageClassification
from spectralgpt_hf.training.few_shot import FewShotRecipe, accuracy, finetune_few_shot, train_resnet
from spectralgpt_hf.training.probing import linear_discriminant
from tests.parity import config


def bright_and_dark(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    settings = config("toy")
    labels = torch.arange(count) % 2
    images = torch.randn(count, settings.num_channels, settings.image_size, settings.image_size, generator=generator)
    return images + 0.5 * (2 * labels - 1)[:, None, None, None], labels


def new_model(**overrides: object) -> SpectralGPTForImageClassification:
    torch.manual_seed(0)
    settings = config("toy", **overrides)
    settings.num_labels = 2
    return SpectralGPTForImageClassification(settings)


def test_the_head_starts_as_the_linear_discriminant_of_frozen_features():
    images, labels = bright_and_dark(16)
    model = new_model()
    finetune_few_shot(model, images, labels, FewShotRecipe(steps=0))
    with torch.no_grad():
        features = model.spectralgpt(images).pooler_output
        weight, bias = linear_discriminant(features, labels, 2)
        torch.testing.assert_close(model(images).logits, features @ weight.T + bias, rtol=1e-4, atol=1e-3)


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


def test_lora_changes_the_layers_only_and_is_merged_in_the_end():
    images, labels = bright_and_dark(16)
    before, after = new_model(), new_model()
    result = finetune_few_shot(after, images, labels, FewShotRecipe(steps=5, lora_rank=2), seed=3)
    old, new = before.state_dict(), result.state_dict()
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert any(".layers." in name for name in changed)
    assert all(name.startswith("classifier.") or (".layers." in name and "norm" not in name) for name in changed)
    assert accuracy(result, images, labels) == 1


def test_a_network_learns_from_random_weights():
    images, labels = bright_and_dark(16)
    model = train_resnet(images, labels, 2, steps=10)
    assert accuracy(model, images, labels) == 1
    assert accuracy(model, images, 1 - labels) == 0
