"""Fine-tuning with a handful of labels: the head alone first, then all layers, the lower ones more slowly.

With few images, training all weights from the start destroys pretrained features before the head is of use (Kumar et
al., ICLR 2022). So the head starts as a linear probe of frozen features, and the encoder follows with layer-wise rates.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..modeling.modeling_spectralgpt import SpectralGPTForImageClassification
from .optimization import parameter_groups
from .probing import LinearProbe
from .transforms import flip_and_rotate


@dataclass(frozen=True)
class FewShotRecipe:
    """How few labels are learnt from.

    Attributes:
        steps: Of the second phase; the first is solved exactly.
        batch_size: Images of a step, drawn with replacement.
        learning_rate: Of the head; each layer below has `layer_decay` of the rate of the next.
        layer_decay: See there.
        weight_decay: Of the linear probe and of the second phase.
    """

    steps: int = 40
    batch_size: int = 16
    learning_rate: float = 5e-4
    layer_decay: float = 0.75
    weight_decay: float = 0.1


def finetune_few_shot(
    model: SpectralGPTForImageClassification,
    images: torch.Tensor,
    labels: torch.Tensor,
    recipe: FewShotRecipe = FewShotRecipe(),
    seed: int = 0,
) -> SpectralGPTForImageClassification:
    """Fine-tune a classifier in place.

    Args:
        model: With a head for the classes.
        images: Normalised (M, C, H, W).
        labels: Class numbers (M,).
        recipe: How.
        seed: Of the batches and their turns.

    Returns:
        `model`, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    with torch.no_grad():
        features = torch.cat([model.spectralgpt(part).pooler_output for part in images.split(32)])
    probe = LinearProbe(features, labels, model.classifier.out_features, recipe.weight_decay)
    with torch.no_grad():
        model.classifier.weight.copy_(probe.linear.weight / probe.std)
        model.classifier.bias.copy_(probe.linear.bias - model.classifier.weight @ probe.mean)
    groups = parameter_groups(
        model, recipe.weight_decay, learning_rate=recipe.learning_rate, layer_decay=recipe.layer_decay
    )
    optimizer = torch.optim.AdamW(groups)
    warmup = max(1, recipe.steps // 5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (recipe.steps - step) / max(1, recipe.steps - warmup))
    )
    model.train()
    for _ in range(recipe.steps):
        chosen = torch.randint(len(labels), (recipe.batch_size,), generator=generator)
        (batch,) = flip_and_rotate([images[chosen]], torch.rand(recipe.batch_size, 3, generator=generator))
        loss = nn.functional.cross_entropy(model(batch).logits, labels[chosen], label_smoothing=0.1)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()
