"""Score frozen features with simple classifiers: nearest neighbours, class means, and a linear map."""

import re
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..modeling.modeling_spectralgpt import SpectralGPTModel
from .batches import collate, model_inputs
from .samples import Samples


WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FEW_SHOT_WEIGHT_DECAYS = (1e-2, 1e-1, 1.0)
READ_OUTS = ("pooled", "groups", "mean and std", "groups, mean and std")
CALIBRATION_FOLDS = 5
NEVER = -1e4  # logit of a class without samples
METHODS = ("linear", "neighbours", "prototypes")


@torch.no_grad()
def extract_features(
    model: SpectralGPTModel, samples: Samples, batch_size: int = 32, num_workers: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pooled features (N, D), float32, and the labels of all samples, on the CPU."""
    device = next(model.parameters()).device
    loader = DataLoader(samples, batch_size, collate_fn=collate, num_workers=num_workers)
    features, labels = [], []
    for batch in tqdm(loader, desc="Features", disable=None):
        inputs = {name: value.to(device) for name, value in model_inputs(batch).items()}
        outputs = model.eval()(**inputs | {"pixel_values": inputs["pixel_values"].to(model.dtype)})
        features.append(outputs.pooler_output.float().cpu())
        labels.append(batch["labels"])
    return torch.cat(features), torch.cat(labels)


def targets_of(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return 0 or 1 for each class (N, K). Labels are class numbers (N,), or already 0 or 1 for each class."""
    return labels.float() if labels.ndim == 2 else nn.functional.one_hot(labels, num_classes).float()


def nearest_neighbours(
    features: torch.Tensor, train: torch.Tensor, targets: torch.Tensor, k: int = 20, temperature: float = 0.07
) -> torch.Tensor:
    """Return the share of each class (N, K) in the votes of the nearest training samples, by cosine similarity.

    Args:
        features: Features (N, D) to classify.
        train: Features (M, D) of the training samples.
        targets: Classes (M, K) of the training samples, 0 or 1.
        k: Number of neighbours.
        temperature: The vote of a neighbour has the weight exp(similarity / temperature).
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
    """Logistic regression on standardised features. The problem is convex, so only the weight decay must be tuned.

    Args:
        train: Features (M, D).
        labels: Class numbers (M,), or 0 or 1 for each class (M, K).
        num_classes: Number of classes K.
        weight_decay: Weight decay of the weights; the bias has none.
        steps: Largest number of iterations of L-BFGS.
    """

    def __init__(
        self, train: torch.Tensor, labels: torch.Tensor, num_classes: int, weight_decay: float, steps: int = 100
    ) -> None:
        self.mean, self.std = train.mean(0), train.std(0).nan_to_num().clamp(min=1e-6)
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
    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight (K, D) and bias (K,) that take the features as they are, without standardisation."""
        weight = self.linear.weight / self.std
        return weight, self.linear.bias - weight @ self.mean

    @torch.no_grad()
    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (N, K)."""
        return self.linear((features - self.mean) / self.std)


def linear_discriminant(
    features: torch.Tensor, labels: torch.Tensor, num_classes: int, parts: Sequence[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight (K, F) and bias (K,) of a linear discriminant analysis with shrunk covariance and equal priors.

    The covariance within classes, of standardised features, is shrunk as by Ledoit and Wolf (2004). With few samples of
    each class this is more accurate than logistic regression, and it has nothing to tune. Its logits would be far too
    confident: they are divided by the temperature that suits samples which were held out (Guo et al., ICML 2017), or by
    the number of features if no class has two samples.

    Args:
        features: Features (M, F).
        labels: Class numbers (M,). Classes without a sample are never predicted.
        num_classes: Number of classes K.
        parts: Sizes of parts of the features, which sum to F; by default there is one part. Each has a discriminant and
            a temperature of its own, and the logits are the mean of theirs, so that many features do not outweigh few.

    Raises:
        ImportError: If scikit-learn is missing.
    """
    solved = [_calibrated(part, labels, num_classes) for part in features.split(parts or [features.shape[1]], dim=1)]
    weights, biases = zip(*solved)
    bias = torch.stack(biases).mean(0)
    bias[labels.bincount(minlength=num_classes) == 0] = NEVER
    return torch.cat(weights, dim=1) / len(solved), bias


def _calibrated(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of `linear_discriminant` for one part."""
    weight, bias = _discriminant(features, labels, num_classes)
    repeated = labels.bincount(minlength=num_classes)[labels] > 1  # the others cannot be held out
    temperature = torch.tensor(float(features.shape[1]))  # if no sample can be held out: logits grow with it
    if repeated.any():
        folds = fold_numbers(labels, None, CALIBRATION_FOLDS, seed=0)
        logits = torch.zeros(len(labels), num_classes)
        for fold in folds[repeated].unique():
            out = folds == fold
            held_out_weight, held_out_bias = _discriminant(features[~out], labels[~out], num_classes)
            logits[out] = features[out] @ held_out_weight.T + held_out_bias
        candidates = torch.logspace(0, 3, 61)
        losses = [nn.functional.cross_entropy(logits[repeated] / value, labels[repeated]) for value in candidates]
        temperature = candidates[torch.stack(losses).argmin()]
    return weight / temperature, bias / temperature


def _discriminant(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of one part, without the temperature."""
    try:
        from sklearn.covariance import ledoit_wolf
    except ImportError as error:
        raise ImportError("A linear discriminant needs scikit-learn: `pip install scikit-learn`.") from error
    mean, std = features.mean(0), features.std(0).nan_to_num().clamp(min=1e-6)
    features = (features - mean) / std
    present = labels.unique()
    means = torch.stack([features[labels == label].mean(0) for label in present])
    residuals = features - means[torch.searchsorted(present, labels)]
    spread = len(labels) - len(present)  # degrees of freedom
    covariance = torch.eye(features.shape[1])  # if every class has a single sample
    if spread:
        covariance = torch.from_numpy(ledoit_wolf(residuals.numpy(), assume_centered=True)[0]) * len(labels) / spread
    covariance += 1e-6 * torch.eye(len(covariance))  # all samples of a class may be equal
    axes = torch.linalg.solve(covariance.double(), means.double().T).T.float()  # (K present, F)
    weight, bias = torch.zeros(num_classes, features.shape[1]), torch.full((num_classes,), NEVER)
    weight[present], bias[present] = axes / std, -(axes * means).sum(1) / 2 - (axes / std) @ mean
    return weight, bias


def probe_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of labels with one class (N,) or with several (N, K)."""
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


def read_out(model: SpectralGPTModel, pixel_values: torch.Tensor, name: str) -> torch.Tensor:
    """Return features (B, F) of images (B, C, H, W).

    Args:
        model: Model in evaluation mode.
        pixel_values: Normalised images.
        name: "pooled", the pooled output; "groups", the mean over the tokens of each spectral group, concatenated;
            "mean and std", mean and standard deviation over the patch positions of the mean over the groups; "groups,
            mean and std", mean and standard deviation over the tokens of each group; or "layer 3", ..., the mean over
            the tokens after that layer.

    Raises:
        ValueError: If there is no such read-out.
    """
    layer = int(name.removeprefix("layer ")) if re.fullmatch(r"layer \d+", name) else None
    outputs = model(pixel_values, output_hidden_states=layer is not None)
    if name == "pooled":
        return outputs.pooler_output
    if layer is not None:
        return outputs.hidden_states[layer].mean(1)
    groups = -(-pixel_values.shape[1] // model.config.spectral_patch_size)
    tokens = outputs.last_hidden_state.unflatten(1, (groups, -1))  # (B, G, h * w, D)
    if name == "groups":
        return tokens.mean(2).flatten(1)
    if name == "mean and std":
        positions = tokens.mean(1)
        return torch.cat([positions.mean(1), positions.std(1)], 1)
    if name == "groups, mean and std":
        return torch.cat([tokens.mean(2), tokens.std(2)], 2).flatten(1)
    raise ValueError(f"Expected a read-out among {', '.join(READ_OUTS)} or 'layer <number>', got {name!r}.")


def pixel_statistics(images: torch.Tensor) -> torch.Tensor:
    """Return the mean and the standard deviation of each band (B, 2 C) of images (B, C, H, W)."""
    return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


def principal_components(images: torch.Tensor, fitted: torch.Tensor, count: int = 64) -> torch.Tensor:
    """Return the first principal components (B, `count`) of all pixel values; their axes come from `fitted` images."""
    rows = fitted.flatten(1) - fitted.flatten(1).mean(0)
    axes = torch.linalg.svd(rows, full_matrices=False)[2][:count]
    return (images.flatten(1) - fitted.flatten(1).mean(0)) @ axes.T


def fold_numbers(labels: torch.Tensor, blocks: Sequence[str] | None, folds: int, seed: int) -> torch.Tensor:
    """Return the number of the fold (N,) in which each sample is held out.

    Args:
        labels: Class numbers (N,).
        blocks: Block of each sample; whole blocks are held out. None spreads each class evenly over the folds.
        folds: Number of folds.
        seed: Seed of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    if blocks is not None:
        names = sorted(set(blocks))
        fold_of = dict(zip(names, (torch.randperm(len(names), generator=generator) % folds).tolist()))
        return torch.tensor([fold_of[block] for block in blocks])
    numbers = torch.empty_like(labels)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        numbers[members] = (order + torch.randint(folds, (), generator=generator)) % folds
    return numbers


def classify(
    method: str,
    train: torch.Tensor,
    labels: torch.Tensor,
    features: torch.Tensor,
    weight_decay: float = 0.1,
    k: int = 10,
) -> torch.Tensor:
    """Return the class (N,) that a simple classifier predicts for each of `features` (N, D).

    Features are standardised with the mean and the deviation of `train`.

    Args:
        method: "linear" (logistic regression), "neighbours" (equal votes of the `k` nearest) or "prototypes" (the
            nearest mean of a class).
        train: Features (M, D).
        labels: Classes (M,) of the training samples.
        features: Features to classify.
        weight_decay: Weight decay of the linear classifier.
        k: Number of neighbours.

    Raises:
        ValueError: If the method is unknown.
        ImportError: If scikit-learn is missing.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
    except ImportError as error:
        raise ImportError("Probes with few labels need scikit-learn: `pip install scikit-learn`.") from error
    if method not in METHODS:
        raise ValueError(f"Expected a method among {', '.join(METHODS)}, got {method!r}.")
    mean, std = train.mean(0), train.std(0).nan_to_num().clamp(min=1e-6)
    train, features = (train - mean) / std, (features - mean) / std
    if method == "prototypes":
        classes = labels.unique()
        train, labels, k = torch.stack([train[labels == label].mean(0) for label in classes]), classes, 1
    classifier: KNeighborsClassifier | LogisticRegression = KNeighborsClassifier(min(k, len(labels)))
    if method == "linear":
        classifier = LogisticRegression(C=1 / (weight_decay * len(labels)), max_iter=500)
    return torch.from_numpy(classifier.fit(train.numpy(), labels.numpy()).predict(features.numpy()))


def cross_validate(
    method: str, features: torch.Tensor, labels: torch.Tensor, folds: torch.Tensor, decay: float = 0.1
) -> torch.Tensor:
    """Return whether each sample (N,) is classified correctly by a classifier trained on the other folds."""
    correct = torch.zeros(len(labels), dtype=torch.bool)
    for fold in folds.unique():
        out = folds == fold
        found = classify(method, features[~out], labels[~out], features[out], decay)
        correct[out] = found == labels[out]
    return correct


def best_weight_decay(features: torch.Tensor, labels: torch.Tensor, folds: torch.Tensor) -> float:
    """Return the weight decay with which the linear classifier is most accurate in cross-validation."""
    correct = {
        decay: int(cross_validate("linear", features, labels, folds, decay).sum()) for decay in FEW_SHOT_WEIGHT_DECAYS
    }
    return max(correct, key=correct.__getitem__)


def draw_shots(labels: torch.Tensor, shots: int, seed: int) -> torch.Tensor:
    """Return the numbers of `shots` samples of each class, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        drawn.append(members[torch.randperm(len(members), generator=generator)[:shots]])
    return torch.cat(drawn)


def bootstrap_interval(values: torch.Tensor, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of values (N,), such as differences of two contestants."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(values), (resamples, len(values)), generator=generator)
    means = values.double()[chosen].mean(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
