"""Training with a handful of labels: fine-tuning that starts from a solved head, LoRA, and networks from scratch.

With few images, training all weights from the start destroys pretrained features before the head has learnt anything
(Kumar et al., ICLR 2022). Therefore the head starts as the linear discriminant of frozen features. All weights are then
trained with layer-wise rates.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from ..modeling.modeling_spectralgpt import SpectralGPTForImageClassification
from .models import finished, with_lora
from .optimization import parameter_groups
from .starting import start_from_features
from .transforms import flip_and_rotate


@dataclass(frozen=True)
class FewShotRecipe:
    """Settings of few-shot fine-tuning.

    Attributes:
        steps: Steps of the second phase; with 0, only the head learns. The first phase is solved exactly.
        batch_size: Largest number of images of a step, which are drawn with replacement.
        learning_rate: Learning rate of the head.
        layer_decay: Learning rate of a layer divided by that of the next one.
        weight_decay: Weight decay of the second phase.
        lora_rank: Rank of LoRA's matrices, which are trained instead of the encoder's weights; 0 trains all weights.
    """

    steps: int = 10
    batch_size: int = 16
    learning_rate: float = 5e-5
    layer_decay: float = 0.75
    weight_decay: float = 0.1
    lora_rank: int = 0


def finetune_few_shot(
    model: SpectralGPTForImageClassification,
    images: torch.Tensor,
    labels: torch.Tensor,
    recipe: FewShotRecipe = FewShotRecipe(),
    seed: int = 0,
) -> SpectralGPTForImageClassification:
    """Fine-tune a classifier; its weights are modified.

    Args:
        model: Model with a head for the classes.
        images: Normalised images (M, C, H, W).
        labels: Class numbers (M,).
        recipe: Settings of the training.
        seed: Seed of LoRA's initial weights, of the batches, and of their random symmetries.

    Returns:
        `model`, in evaluation mode, with LoRA's matrices added to its weights.

    Raises:
        ImportError: If peft is missing and the recipe asks for LoRA.
    """
    model.eval()
    with torch.no_grad():
        features = [model.classifier_input(model.spectralgpt(part).pooler_output, part) for part in images.split(32)]
    start_from_features(model, torch.cat(features), labels)
    torch.manual_seed(seed)
    learner: Any = with_lora(model, recipe.lora_rank) if recipe.lora_rank else model
    groups = parameter_groups(
        learner, recipe.weight_decay, learning_rate=recipe.learning_rate, layer_decay=recipe.layer_decay
    )
    _train(learner, torch.optim.AdamW(groups), images, labels, recipe.steps, recipe.batch_size, seed)
    result: Any = finished(learner)
    return result.eval()


def train_resnet(images: torch.Tensor, labels: torch.Tensor, num_classes: int, steps: int, seed: int = 0) -> nn.Module:
    """Return a small residual network (He et al., CVPR 2016; about 0.3 M parameters) trained from random weights.

    Args:
        images: Normalised images (M, C, H, W).
        labels: Class numbers (M,).
        num_classes: Number of classes.
        steps: Number of steps of AdamW, with batches of 16.
        seed: Seed of the initial weights, of the batches and of their rotations.
    """
    torch.manual_seed(seed)
    config = ResNetConfig(
        num_channels=images.shape[1],
        embedding_size=32,
        hidden_sizes=[32, 64, 128],
        depths=[1, 1, 1],
        layer_type="basic",
    )
    config.num_labels = num_classes
    model = ResNetForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    return _train(model, optimizer, images, labels, steps, 16, seed).eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of images (M, C, H, W) whose class (M,) a classifier predicts correctly."""
    found = torch.cat([model(part).logits.argmax(1) for part in images.split(32)])
    return (found == labels).float().mean().item()


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    steps: int,
    batch_size: int,
    seed: int,
) -> nn.Module:
    """Take `steps` steps on batches drawn with replacement and turned at random; the rate rises, then falls to 0."""
    generator = torch.Generator().manual_seed(seed)
    warmup = max(1, steps // 5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(labels), (min(batch_size, len(labels)),), generator=generator)
        (batch,) = flip_and_rotate([images[chosen]], torch.rand(len(chosen), 3, generator=generator))
        loss = nn.functional.cross_entropy(model(batch).logits, labels[chosen], label_smoothing=0.1)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model
