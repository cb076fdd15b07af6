"""What a run says of itself."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import TrainingError
from deepsentinel.training.pretraining import watch
from deepsentinel.training.pretraining.watch import TEMPERATURE, Meter, Probe, Some, neighbour_score


def clusters(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, 3, count)
    centres = np.random.default_rng(9).normal(0, 1, (3, 6))
    return centres[labels] + draws.normal(0, 1.0, (count, 6)), labels


def test_votes_are_those_of_scikit_learn() -> None:
    (train_x, train_y), (test_x, test_y) = clusters(80, 0), clusters(50, 1)
    scaler = StandardScaler().fit(train_x)
    model = KNeighborsClassifier(
        n_neighbors=7, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / TEMPERATURE)
    )  # fmt: skip
    model.fit(scaler.transform(train_x), train_y)
    expected = model.score(scaler.transform(test_x), test_y)
    found = neighbour_score(train_x, train_y, test_x, test_y, neighbours=7)
    assert found == pytest.approx(expected)
    assert 0.5 < found < 1


def test_multi_hot_labels_are_scored_by_their_votes() -> None:
    from sklearn.metrics import average_precision_score

    (train_x, train_y), (test_x, test_y) = clusters(60, 2), clusters(40, 3)
    hot = np.eye(3, dtype=int)
    model = KNeighborsClassifier(
        n_neighbors=5, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / TEMPERATURE)
    )  # fmt: skip
    scaler = StandardScaler().fit(train_x)
    model.fit(scaler.transform(train_x), train_y)
    votes = model.predict_proba(scaler.transform(test_x))
    expected = average_precision_score(hot[test_y].ravel(), votes.ravel())
    found = neighbour_score(train_x, hot[train_y], test_x, hot[test_y], neighbours=5)
    assert found == pytest.approx(expected)


def test_what_is_not_labelled_neither_votes_nor_counts() -> None:
    (train_x, train_y), (test_x, test_y) = clusters(40, 4), clusters(40, 5)
    blind = np.concatenate([train_x, test_x]), np.concatenate([train_y, np.full(40, -1)])
    halved = np.where(np.arange(40) < 20, test_y, -1)
    expected = neighbour_score(train_x, train_y, test_x[:20], test_y[:20])
    assert neighbour_score(*blind, test_x, halved) == pytest.approx(expected)
    with pytest.raises(TrainingError, match="0 labelled patches"):
        neighbour_score(train_x, np.full(40, -1), test_x, test_y)


def test_a_probe_needs_labels_and_places(samples) -> None:
    data = samples(12)
    encoder = FusionEncoder("resnet10t", levels=(1,))
    probe = Probe.of(data, name="small")
    assert 0 <= probe.score(encoder) <= 1
    assert probe.score(encoder) == probe.score(encoder)
    with pytest.raises(TrainingError, match="needs patches with a label"):
        Probe.of([{k: s[k] for k in s if k != "label"} for s in data], name="bare")


def test_a_probe_tells_embeddings_that_know_the_class_from_those_that_do_not(samples) -> None:
    data = samples(30)

    class Knows(torch.nn.Module):
        sensors, bands, embed_dim = ("s1",), {"s1": ("VV", "VH")}, 3

        def __init__(self, *, honest: bool) -> None:
            super().__init__()
            self.honest = torch.nn.Parameter(torch.tensor(float(honest)))

        def encode(self, batch):
            from deepsentinel.features import Features

            hot = torch.eye(3)[batch["label"]] * self.honest
            noise = torch.randn(len(hot), 3, generator=torch.Generator().manual_seed(0))
            return Features(hot + 0.01 * noise, (), ())

    probe = Probe.of(data, name="small")
    assert probe.score(Knows(honest=True)) == 1.0
    assert probe.score(Knows(honest=False)) < 0.8


def test_sums_go_on_where_they_were_left() -> None:
    whole, first, second = Meter(), Meter(), Meter()
    values = [torch.tensor(float(v)) for v in (1, 2, 4)]
    for value in values:
        whole.add({"loss": value})
    first.add({"loss": values[0]})
    second.resume(first.state(), torch.device("cpu"))
    for value in values[1:]:
        second.add({"loss": value})
    assert second.means() == whole.means() == {"loss": pytest.approx(7 / 3)}


def test_waiting_is_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    monkeypatch.setattr(watch, "time", SimpleNamespace(perf_counter=lambda: meter.started + 2.0))
    meter.waited = 0.5
    meter.add({}, patches=100, pixels=10_000)
    speed = meter.speed()
    assert speed["data_wait"] == pytest.approx(0.25)
    assert speed["patches_per_s"] == pytest.approx(50)
    assert speed["megapixels_per_s"] == pytest.approx(0.005)


def test_some_are_spread_evenly() -> None:
    assert list(Some(list("abcdefghij"), 5)) == list("acegi")
    assert len(Some(list("ab"), 5)) == 2
