import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from spectralgpt_hf.training.probing import LinearProbe, choose_weight_decay, nearest_neighbours, targets_of


@pytest.fixture
def clusters() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (120,), generator=generator)
    centres = 2 * torch.randn(3, 6, generator=generator)
    return centres[labels] + torch.randn(120, 6, generator=generator), labels


def test_the_linear_probe_finds_the_optimum_that_scikit_learn_finds(clusters):
    features, labels = clusters
    probe = LinearProbe(features, labels, 3, weight_decay=0.01)
    standardised = (features - features.mean(0)) / features.std(0)
    expected = LogisticRegression(C=1 / (0.01 * len(labels)), tol=1e-8, max_iter=1000).fit(standardised, labels)
    found = probe(features).softmax(1)
    torch.testing.assert_close(found, torch.tensor(expected.predict_proba(standardised)).float(), rtol=0, atol=2e-3)


def test_neighbours_vote_as_those_of_scikit_learn(clusters):
    features, labels = clusters
    votes = nearest_neighbours(features[100:], features[:100], targets_of(labels[:100], 3), k=5, temperature=1e6)
    centred = features - features[:100].mean(0)
    classifier = KNeighborsClassifier(5, metric="cosine").fit(centred[:100], labels[:100])
    expected = torch.tensor(classifier.predict_proba(centred[100:])).float()
    torch.testing.assert_close(votes, expected, rtol=0, atol=1e-4)


def test_the_weight_decay_is_the_best_on_validation(clusters):
    features, labels = clusters
    noise = torch.randint(3, (20,), generator=torch.Generator().manual_seed(1))
    train = (features[:20], noise)  # nothing to be learnt: the strongest decay errs least
    assert choose_weight_decay(train, (features[20:], labels[20:]), 3, (1e-4, 10.0)) == 10.0
