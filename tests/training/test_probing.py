import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from spectralgpt_hf import SpectralGPTModel
from spectralgpt_hf.training.probing import (
    FEW_SHOT_WEIGHT_DECAYS,
    LinearProbe,
    best_weight_decay,
    bootstrap_interval,
    choose_weight_decay,
    classify,
    cross_validate,
    draw_shots,
    fold_numbers,
    linear_discriminant,
    nearest_neighbours,
    principal_components,
    read_out,
    targets_of,
)
from tests.parity import config


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


def test_the_discriminant_of_many_samples_is_that_of_scikit_learn_without_shrinkage(clusters):
    features, labels = clusters
    weight, bias = linear_discriminant(features, labels, 4)
    reference = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3).fit(features, labels)
    logits = features @ weight.T + bias
    assert ((logits.argmax(1).numpy() == reference.predict(features)).mean()) > 0.99
    assert (bias[3], weight[3].any()) == (-1e4, False)  # a class without a sample


def test_the_confidence_of_the_discriminant_is_that_of_samples_it_has_not_seen():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 5
    features = torch.randn(2000, 200, generator=generator)
    features[torch.arange(2000), labels] += 3
    features = features @ torch.randn(200, 200, generator=generator) / 200**0.5  # correlated
    weight, bias = linear_discriminant(features[:100], labels[:100], 5)
    confidence, found = (features[100:] @ weight.T + bias).softmax(1).max(1)
    accuracy = (found == labels[100:]).float().mean()
    assert abs(confidence.mean() - accuracy) < 0.08  # without the temperature, it is 0.91 with an accuracy of 0.66


def test_the_discriminant_of_one_sample_per_class_is_the_nearest_one():
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    weight, bias = linear_discriminant(features, torch.arange(5), 5)
    assert ((features @ weight.T + bias).argmax(1) == torch.arange(5)).all()


def test_each_part_of_the_features_has_a_discriminant_of_its_own_so_that_many_do_not_outweigh_few():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000) % 4
    many, few = torch.randn(1000, 200, generator=generator), torch.randn(1000, 4, generator=generator)
    few += 1.5 * torch.eye(4)[labels]
    features = torch.cat([many, few], dim=1)

    def logits(values, parts=None):
        weight, bias = linear_discriminant(values[:40], labels[:40], 4, parts)
        return values[40:] @ weight.T + bias

    def accuracy(*arguments):
        return (logits(*arguments).argmax(1) == labels[40:]).float().mean()

    assert accuracy(features, [200, 4]) > accuracy(features) + 0.1
    torch.testing.assert_close(logits(features, [200, 4]), (logits(many) + logits(few)) / 2)


@pytest.mark.parametrize("samples", [1, 2])
def test_parts_count_alike_with_one_sample_per_class_too(samples):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000) % 4
    features = torch.cat([torch.randn(1000, 400, generator=generator), 4 * torch.eye(4)[labels]], dim=1)
    count = 4 * samples
    weight, bias = linear_discriminant(features[:count], labels[:count], 4, [400, 4])
    assert ((features[count:] @ weight.T + bias).argmax(1) == labels[count:]).float().mean() > 0.9


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


def test_classifiers_standardise_by_the_training_samples(clusters):
    features, labels = clusters
    mean, std = features[:90].mean(0), features[:90].std(0)
    train, test = ((part - mean) / std for part in features.split([90, 30]))
    for method, expected in (("neighbours", KNeighborsClassifier(5)), ("prototypes", NearestCentroid())):
        found = classify(method, features[:90], labels[:90], features[90:], k=5)
        assert expected.fit(train, labels[:90]).predict(test).tolist() == found.tolist()
    with pytest.raises(ValueError, match="Expected a method among linear, neighbours, prototypes, got 'forest'"):
        classify("forest", features, labels, features)


def test_one_image_of_each_class_is_enough_for_every_classifier(clusters):
    features, labels = clusters
    chosen = draw_shots(labels, 1, seed=0)
    assert sorted(labels[chosen].tolist()) == [0, 1, 2]
    assert not torch.equal(chosen, draw_shots(labels, 1, seed=1))
    for method in ("linear", "neighbours", "prototypes"):
        right = classify(method, features[chosen], labels[chosen], features, k=1) == labels
        assert right.float().mean() > 0.6


def test_folds_hold_out_whole_blocks_or_some_of_each_class(clusters):
    _, labels = clusters
    blocks = [str(number // 3) for number in range(len(labels))]
    spatial = fold_numbers(labels, blocks, 5, seed=0)
    assert all(len(set(spatial[3 * block : 3 * block + 3].tolist())) == 1 for block in range(40))
    random = fold_numbers(labels, None, 5, seed=0)
    for label in range(3):
        sizes = random[labels == label].bincount(minlength=5)
        assert sizes.max() - sizes.min() <= 1
    assert not torch.equal(random, fold_numbers(labels, None, 5, seed=1))


def test_cross_validation_never_trains_on_what_it_tests(clusters):
    features, labels = clusters
    apart = torch.arange(len(labels)) % 5
    assert cross_validate("linear", features, labels, apart).float().mean() > 0.8
    # Twins across folds are found again by their neighbour; noise is not.
    noise = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    random_labels = torch.randint(3, (60,), generator=torch.Generator().manual_seed(1))
    alone = cross_validate("neighbours", noise, random_labels, torch.arange(60) % 5).float().mean()
    assert alone < 0.55
    assert best_weight_decay(noise, random_labels, torch.arange(60) % 5) in FEW_SHOT_WEIGHT_DECAYS


def test_read_outs_are_means_and_deviations_of_tokens():
    torch.manual_seed(0)
    model = SpectralGPTModel(config("toy")).eval()
    images = torch.randn(2, model.config.num_channels, model.config.image_size, model.config.image_size)
    groups, width = model.config.num_channels // 3, model.config.hidden_size
    outputs = model(images)
    assert torch.equal(read_out(model, images, "pooled"), outputs.pooler_output)
    by_group = read_out(model, images, "groups")
    assert by_group.shape == (2, groups * width)
    tokens = outputs.last_hidden_state
    assert torch.allclose(by_group.unflatten(1, (groups, -1)).mean(1), tokens.mean(1), atol=1e-5)
    both = read_out(model, images, "mean and std")
    assert torch.allclose(both[:, :width], tokens.mean(1), atol=1e-5)
    assert read_out(model, images, "groups, mean and std").shape == (2, 2 * groups * width)
    assert read_out(model, images, "layer 1").shape == (2, width)
    with pytest.raises(ValueError, match="Expected a read-out among pooled, groups"):
        read_out(model, images, "best")


def test_principal_components_keep_distances():
    images = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    components = principal_components(images, images, count=12)
    assert torch.allclose(
        torch.cdist(components, components), torch.cdist(images.flatten(1), images.flatten(1)), atol=1e-3
    )


def test_the_bootstrap_interval_of_a_difference_excludes_0_only_where_there_is_one():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, generator=generator)
    low, high = bootstrap_interval(noise - noise.mean())
    assert low < 0 < high
    low, high = bootstrap_interval(noise + 1)
    assert 0.7 < low < high < 1.3
