"""`Matcher`: right and wrong pairs, the sensors apart, what is not observed, places of several dates."""

import pytest
import torch

from deepsentinel.errors import LabelError, SampleError, UnknownNameError
from deepsentinel.features import Features, Head, Matching
from deepsentinel.heads.card import model_card
from deepsentinel.heads.matching import (
    Matcher,
    MatchingHead,
    paired,
    same_place,
    wrong_partners,
)
from deepsentinel.sample import PatchMeta

NAN = float("nan")


@pytest.fixture
def pairs():
    """Eight places; two levels of each are in both bands of both sensors, under noise."""
    generator = torch.Generator().manual_seed(3)
    levels = torch.randn(8, 2, 1, 1, generator=generator)
    s1 = -12 + 4 * levels + torch.randn(8, 2, 16, 16, generator=generator)
    s2 = (0.4 + 0.1 * levels).repeat(1, 6, 1, 1)
    s2 = (s2 + 0.02 * torch.randn(8, 12, 16, 16, generator=generator)).clamp(0)
    return {"image_s1": s1, "image_s2": s2}


def meta(name, lon):
    return PatchMeta(id=name, lon=lon, lat=50.0)


@pytest.mark.parametrize("drawn", [True, False])
def test_learns_which_patches_show_one_place(make_encoder, pairs, drawn) -> None:
    model = Matcher(make_encoder((4,), (16,)), dim=16)
    assert isinstance(model.head, Head)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0) if drawn else None
    for _ in range(150):
        optimiser.zero_grad()
        model.loss(pairs, generator)["loss"].backward()
        optimiser.step()
    vectors = model.eval().logits(pairs)
    nearest = model.head.logits(vectors, pairs=False).argmax(1)
    assert (nearest == torch.arange(8)).float().mean() >= 0.75
    right = model(pairs["image_s1"], pairs["image_s2"])
    assert type(right) is Matching
    assert (right.classes == 1).float().mean() >= 0.75
    wrong = model(pairs["image_s1"], pairs["image_s2"].roll(3, 0))
    assert (wrong.classes == 0).float().mean() >= 0.75


def test_the_loss_is_the_slow_loop(make_encoder, pairs) -> None:
    model = Matcher(make_encoder(), dim=8).eval()
    vectors = model.logits(pairs).detach()
    scale, bias = model.head.log_scale.exp().item(), model.head.bias.item()

    def cost(i, j, same):
        logit = torch.tensor(scale * float(vectors[i, 0] @ vectors[j, 1]) + bias)
        return -(logit if same else -logit).sigmoid().log().item()

    right = sum(cost(i, i, True) for i in range(8)) / 8
    wrong = sum(cost(i, j, False) for i in range(8) for j in range(8) if i != j) / 56
    assert model.loss(pairs)["loss"].item() == pytest.approx((right + wrong) / 2, rel=1e-4)
    partners = wrong_partners(8, torch.Generator().manual_seed(5)).tolist()
    drawn = sum(cost(i, j, False) for i, j in enumerate(partners)) / 8
    found = model.loss(pairs, torch.Generator().manual_seed(5))["loss"]
    assert found.item() == pytest.approx((right + drawn) / 2, rel=1e-4)
    assert torch.equal(found, model.loss(pairs, torch.Generator().manual_seed(5))["loss"])


def test_neither_sensor_sees_the_other(make_encoder, pairs) -> None:
    model = Matcher(make_encoder(), dim=8).eval()
    vectors = model.logits(pairs)
    changed = model.logits(pairs | {"image_s2": pairs["image_s2"].flip(0)})
    assert torch.allclose(changed[:, 0], vectors[:, 0], atol=1e-6)
    assert torch.allclose(changed[:, 1], vectors[:, 1].flip(0), atol=1e-6)
    alone = model.encoder(s1=pairs["image_s1"])
    assert torch.allclose(
        model.head(Features(alone.embedding.repeat(2, 1), (), ()), (16, 16))[:, 0],
        vectors[:, 0],
        atol=1e-6,
    )
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(8, 2), atol=1e-5)


def test_a_pair_that_lacks_a_sensor_counts_nothing(make_encoder, pairs) -> None:
    model = Matcher(make_encoder(), dim=8).eval()
    pairs["image_s1"][2] = NAN
    pairs["image_s2"][5] = NAN
    assert paired(pairs).tolist() == [True, True, False, True, True, False, True, True]
    kept = {k: v[[0, 1, 3, 4, 6, 7]] for k, v in pairs.items()}
    assert torch.allclose(model.loss(pairs)["loss"], model.loss(kept)["loss"])
    assert model.head.labelled(pairs) == 6
    found = model.predict(pairs)
    assert found.classes[2] == found.classes[5] == -1
    assert found.similarity.isnan().nonzero().flatten().tolist() == [2, 5]
    loss = model.loss(pairs)["loss"]
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.head.parameters())
    nothing = pairs | {"image_s1": torch.full_like(pairs["image_s1"], NAN)}
    assert model.loss(nothing)["loss"].item() == 0
    with pytest.raises(SampleError, match="lacks image_s2"):
        model.loss({"image_s1": pairs["image_s1"]})
    with pytest.raises(SampleError, match="give both"):
        model(s1=pairs["image_s1"])


def test_several_dates_of_one_place_are_no_wrong_pair(make_encoder, pairs) -> None:
    metas = [meta("a", 9.0), meta("b", 9.0), meta("c", 9.01)] + [PatchMeta(id="d")] * 5
    same = same_place({"meta": metas}, 8)
    assert same[0, 1]
    assert same.sum() == 10
    model = Matcher(make_encoder(), dim=8).eval()
    two = {k: v[:2] for k, v in pairs.items()}
    right = model.loss(two | {"meta": metas[:2]})["loss"]  # no wrong pair: the right ones are all
    wanted = -model.head.logits(model.logits(two)).sigmoid().log().mean()
    assert torch.allclose(right, wanted, rtol=1e-4)
    assert not torch.allclose(model.loss(two)["loss"], wanted)


@pytest.mark.parametrize("count", [2, 3, 7, 20])
def test_no_wrong_partner_is_ones_own(count) -> None:
    generator = torch.Generator().manual_seed(1)
    seen = set()
    for _ in range(40):
        partners = wrong_partners(count, generator)
        assert sorted(partners.tolist()) == list(range(count))
        assert not (partners == torch.arange(count)).any()
        seen.add(tuple(partners.tolist()))
    assert len(seen) > (30 if count > 5 else count - 2)


def test_month_goes_to_both_sensors(make_encoder, pairs) -> None:
    """What is given a patch is given twice, for each sensor goes through the encoder alone."""
    encoder = make_encoder()
    seen = []
    forward = encoder.forward

    def spy(s1, s2, *, month=None, s1_bands=None, s2_bands=None):
        seen.append((len(s1), month))
        return forward(s1, s2)

    encoder.forward = spy
    Matcher(encoder, dim=4)(pairs["image_s1"], pairs["image_s2"], month=torch.arange(8))
    assert seen[0][0] == 16
    assert seen[0][1].tolist() == [*range(8), *range(8)]


def test_wrong_options_are_refused(encoder) -> None:
    with pytest.raises(LabelError, match="dim=0"):
        Matcher(encoder, dim=0)
    with pytest.raises(UnknownNameError, match="'tree'"):
        Matcher(encoder, head="tree")
    encoder.sensors = ("s2",)
    with pytest.raises(UnknownNameError, match="reads s2 only"):
        Matcher(encoder)


def test_its_card_names_its_answers(encoder) -> None:
    text = model_card("user/pairs", Matcher(encoder, dim=4).config())
    assert "Predicts 2 answers, whether a pair shows one place, from" in text
    assert "## Answers\n\n0. another place\n1. the same place" in text


@pytest.mark.slow
def test_a_matcher_as_a_graph(tmp_path) -> None:
    from deepsentinel import FusionEncoder

    model = Matcher(FusionEncoder("resnet10t", levels=(1,)), dim=8).eval()
    path = model.export(tmp_path / "model.pt2", format="torch")
    s1, s2 = torch.randn(3, 2, 47, 61) * 3 - 14, torch.rand(3, 12, 47, 61) * 0.4
    similarity, probabilities = torch.export.load(path).module()(s1, s2)
    with torch.no_grad():
        found = model(s1, s2)
    torch.testing.assert_close(similarity, found.similarity)
    torch.testing.assert_close(probabilities, found.probabilities)


def test_the_head_keeps_the_sensors_apart() -> None:
    head = MatchingHead(6, dim=4).eval()
    embedding = torch.randn(3, 6)
    vectors = head(Features(torch.cat([embedding, embedding]), (), ()), (8, 8))
    assert not torch.allclose(vectors[:, 0], vectors[:, 1])
