"""Frozen features judged by what the simplest classifiers make of them: nearest neighbours and a linear map."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..modeling.modeling_spectralgpt import SpectralGPTModel
from .samples import Samples, collate


WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@torch.no_grad()
def extract_features(
    model: SpectralGPTModel, samples: Samples, batch_size: int = 32, num_workers: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pooled features (N, D), float32, and the labels of all samples, on the CPU."""
    device = next(model.parameters()).device
    loader = DataLoader(samples, batch_size, collate_fn=collate, num_workers=num_workers)
    features, labels = [], []
    for batch in tqdm(loader, desc="Features", disable=None):
        mask = batch["attention_mask"].flatten(1).to(device) if "attention_mask" in batch else None
        outputs = model.eval()(batch["pixel_values"].to(device, model.dtype), mask)
        features.append(outputs.pooler_output.float().cpu())
        labels.append(batch["labels"])
    return torch.cat(features), torch.cat(labels)


def targets_of(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return 0 or 1 for each class (N, K), from class numbers (N,) too."""
    return labels.float() if labels.ndim == 2 else nn.functional.one_hot(labels, num_classes).float()


def nearest_neighbours(
    features: torch.Tensor, train: torch.Tensor, targets: torch.Tensor, k: int = 20, temperature: float = 0.07
) -> torch.Tensor:
    """Return how much each class (N, K) has of the nearest training samples, by cosine similarity.

    Args:
        features: (N, D), to be classified.
        train: (M, D).
        targets: (M, K), 0 or 1.
        k: How many neighbours.
        temperature: Neighbours count by exp(similarity / temperature).
    """
    bank = nn.functional.normalize(train - train.mean(0), dim=1)
    queries = nn.functional.normalize(features - train.mean(0), dim=1)
    results = []
    for part in queries.split(1024):
        similarity, nearest = (part @ bank.T).topk(min(k, len(bank)))
        weights = (similarity / temperature).softmax(1)
        results.append((weights[..., None] * targets[nearest]).sum(1))
    return torch.cat(results)


class LinearProbe:
    """Logistic regression on standardised features: convex, so that there is nothing to tune but the weight decay.

    Args:
        train: Features (M, D).
        labels: Class numbers (M,), or 0 or 1 for each class (M, K).
        num_classes: K.
        weight_decay: Of the weights.
        steps: Of L-BFGS.
    """

    def __init__(
        self, train: torch.Tensor, labels: torch.Tensor, num_classes: int, weight_decay: float, steps: int = 100
    ) -> None:
        self.mean, self.std = train.mean(0), train.std(0).clamp(min=1e-6)
        self.linear = nn.Linear(train.shape[1], num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        features = (train - self.mean) / self.std
        optimizer = torch.optim.LBFGS(self.linear.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = probe_loss(self.linear(features), labels) + weight_decay * self.linear.weight.square().sum() / 2
            loss.backward()
            return loss

        optimizer.step(closure)

    @torch.no_grad()
    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (N, K)."""
        return self.linear((features - self.mean) / self.std)


def probe_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of one class each, or of several."""
    if labels.ndim == 2:
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
    return nn.functional.cross_entropy(logits, labels)


def choose_weight_decay(
    train: tuple[torch.Tensor, torch.Tensor],
    validation: tuple[torch.Tensor, torch.Tensor],
    num_classes: int,
    candidates: Sequence[float] = WEIGHT_DECAYS,
) -> float:
    """Return the candidate with the smallest loss on validation samples."""
    losses = {
        decay: probe_loss(LinearProbe(*train, num_classes, decay)(validation[0]), validation[1]).item()
        for decay in candidates
    }
    return min(losses, key=losses.__getitem__)
