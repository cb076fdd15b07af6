"""Search across sensors against a slow loop and scikit-learn; scores of matchers."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from sklearn.metrics.pairwise import cosine_similarity

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import ShapeError, TrainingError
from deepsentinel.heads.matching import Matcher, places_of
from deepsentinel.sample import PatchMeta, collate
from deepsentinel.training.evaluation.embed import embed
from deepsentinel.training.scoring.retrieval import (
    cross_sensor_retrieval,
    ranks,
    retrieval_scores,
)
from deepsentinel.training.scoring.scores import scores_for


def at(name, lon) -> PatchMeta:
    return PatchMeta(id=name, lon=lon, lat=50.0)


def slow_ranks(q, g, places):
    cosine, found = cosine_similarity(q, g), []
    for i in range(len(q)):
        order = np.argsort(-cosine[i])
        place = min(np.flatnonzero(places[order] == places[i]))
        found.append(1 + sum(places[j] != places[i] for j in order[:place]))
    return found


@pytest.mark.parametrize("count", [30, 700])
def test_ranks_are_the_slow_loop(rng, count) -> None:
    q = rng.normal(size=(count, 8))
    g = q + rng.normal(size=q.shape)
    assert ranks(q, g).tolist() == slow_ranks(q, g, np.arange(count))
    places = rng.integers(0, count // 3, count)
    assert ranks(q, g, places=places).tolist() == slow_ranks(q, g, places)


def test_scores_of_ranks(rng) -> None:
    q = rng.normal(size=(40, 4))
    g = q + 2 * rng.normal(size=q.shape)
    found = np.array(slow_ranks(q, g, np.arange(40)))
    assert retrieval_scores(q, g) == {
        "recall@1": (found <= 1).mean(),
        "recall@5": (found <= 5).mean(),
        "recall@10": (found <= 10).mean(),
        "median_rank": np.median(found),
    }


def test_equal_vectors_find_nothing() -> None:
    same = np.tile(np.random.default_rng(0).normal(size=7), (6, 1))
    assert ranks(same, same).tolist() == [6] * 6


def test_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(3, 2\), gallery of \(4, 2\)"):
        ranks(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(ShapeError, match=r"places of \(1,\)"):
        ranks(np.zeros((3, 2)), np.zeros((3, 2)), places=[0])


def test_places_by_position() -> None:
    metas = [at("a", 9), PatchMeta(id="b"), at("c", 9), at("d", 9.01), PatchMeta(id="e")]
    ids = places_of(metas, 5)
    assert ids[0] == ids[2]
    assert len(set(ids)) == 4


def test_an_encoder_is_searched_by_its_embeddings(samples) -> None:
    encoder = FusionEncoder("resnet10t", levels=(1,), embed_dim=16)
    data = samples(9)
    del data[4]["image_s1"]
    found = cross_sensor_retrieval(encoder, data, batch_size=4)
    assert (found.patches, found.empty) == (8, 1)
    kept = [i for i in range(9) if i != 4]
    s1, s2 = (embed(encoder, data, sensors=(s,)).vectors[kept] for s in ("s1", "s2"))
    assert found.s1_to_s2 == retrieval_scores(s1 - s1.mean(0), s2 - s2.mean(0))
    plain = cross_sensor_retrieval(encoder, data, centre=False)
    assert plain.s2_to_s1 == retrieval_scores(s2, s1)
    assert "recall@1" in str(found)
    with pytest.raises(TrainingError, match="0 of 1 patches have both"):
        cross_sensor_retrieval(encoder, data[4:5])


def test_a_matcher_is_searched_by_its_vectors_and_scored_by_its_pairs(samples) -> None:
    model = Matcher(FusionEncoder("resnet10t", levels=(1,), embed_dim=16), dim=8).eval()
    data = samples(9)
    found = cross_sensor_retrieval(model, data, batch_size=4)
    vectors = model.predict(collate(data)).vectors.numpy()
    assert found.s1_to_s2 == retrieval_scores(vectors[:, 0], vectors[:, 1])
    scores = scores_for(model)
    for half in (data[:5], data[5:]):
        batch = collate(half)
        scores.update(model.predict(batch), batch)
    computed = scores.compute()
    assert {k: computed[k] for k in found.s1_to_s2} == pytest.approx(found.s1_to_s2)
    matrix = scores.confusion.matrix().numpy()
    assert matrix.sum(1).tolist() == [9, 9]
    right = model.head.logits(torch.from_numpy(vectors)) >= 0
    assert matrix[1].tolist() == confusion_matrix([1] * 9, right, labels=[0, 1])[1].tolist()
    shares = np.diag(matrix) / matrix.sum(1)
    assert computed[scores.headline] == pytest.approx(shares.mean())
    assert list(scores.per_class().values()) == pytest.approx(shares.tolist())
    assert scores.compute() == computed  # the same wrong pairs each time


def test_dates_of_one_place_are_no_wrong_pairs(samples) -> None:
    model = Matcher(FusionEncoder("resnet10t", levels=(1,), embed_dim=16), dim=8).eval()
    data = [s | {"meta": at(f"p{i}", 9 + 0.01 * (i // 2))} for i, s in enumerate(samples(6))]
    scores = scores_for(model)
    batch = collate(data)
    scores.update(model.predict(batch), batch)
    matrix = scores.confusion.matrix()
    assert matrix[1].sum() == 6
    assert 3 <= matrix[0].sum() <= 6
    one = scores_for(model)
    one.update(model.predict(collate(data[:2])), collate(data[:2]))
    with pytest.raises(TrainingError, match="fewer than two places"):
        one.compute()
    with pytest.raises(TrainingError, match="fewer than two places"):
        scores_for(model).compute()
