"""Distillation from encoders of the zoo: targets, statistics, several teachers, teachers that see less."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.encoders.galileo import GalileoEncoder
from deepsentinel.objectives.hiding import Hiding
from deepsentinel.objectives.teachers import Gathered, Part, Teachers, look
from deepsentinel.sample import PatchMeta
from tests.objectives.conftest import NAN, make_batch, make_encoder, seeded, trainable

KEEP = Hiding(s1=0, s2=0, bands=0, hole=0)


def teacher(seed: int, **options):
    torch.manual_seed(seed)
    made = make_encoder(**options)
    return made.reinitialised(seed).eval()


def test_statistics_are_those_of_all_batches():
    gathered = Gathered(3)
    maps = torch.randn(12, 3, 5, 4, generator=seeded()) * 3 + 50
    maps[4] = NAN
    for part in maps.split(5):
        gathered.add(part)
    kept = np.delete(maps.double().numpy(), 4, axis=0)
    mean, std, pooled = (x.numpy() for x in gathered.moments())
    np.testing.assert_allclose(mean, kept.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(std, kept.std((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(pooled, kept.mean((2, 3)).std(0), rtol=1e-3)


def test_a_student_comes_to_know_its_teachers():
    def network(seed, **options):
        torch.manual_seed(seed)
        return FusionEncoder("resnet10t", levels=(1, 2), embed_dim=16, **options)

    encoder = network(0)
    taught = (network(1).eval(), network(2, s1_bands=()).eval())
    objective = Teachers(encoder, teachers=taught, calibrate=3, width=32, hiding=KEEP)
    optimiser = torch.optim.Adam(trainable(encoder, objective), lr=1e-2)
    course = []
    for step in range(45):
        losses = objective(encoder, make_batch(8, seed=step % 3), seeded(step))
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        course.append({k: v.item() for k, v in losses.items()})
    for key in ("dense_0", "dense_1", "pooled_0", "pooled_1"):
        first, last = ([c[key] for c in part] for part in (course[3:8], course[-5:]))
        assert sum(last) < 0.8 * sum(first), key
    assert all(int(g.steps) == 3 for g in objective.gathered), "then targets stand still"


def test_targets_are_the_standardised_maps_of_whole_patches():
    encoder, batch = make_encoder(embed_dim=16), make_batch(6)
    one = teacher(1)
    objective = Teachers(encoder, teachers=(one,), hiding=Hiding(s1=1, s2=0))
    objective(encoder, batch, seeded())
    whole = one.encode(batch).maps[-1]
    match = objective.matches[0]
    torch.testing.assert_close(match.mean.flatten(), whole.mean((0, 2, 3)))
    torch.testing.assert_close(match.std.flatten(), whole.std((0, 2, 3), correction=0))
    seen = look(one, batch)
    torch.testing.assert_close(seen.embedding, one.encode(batch).embedding)


def test_an_embedding_as_wide_as_all_teachers_is_divided_among_them():
    both = (teacher(1), teacher(2))
    widths = [t.out_channels[-1] for t in both]
    objective = Teachers(make_encoder(embed_dim=sum(widths)), teachers=both)
    assert [type(m.pooled) for m in objective.matches] == [Part, Part]
    vectors = torch.arange(float(sum(widths)))[None]
    parts = [m.pooled(vectors) for m in objective.matches]
    assert torch.cat(parts, 1).equal(vectors)
    other = Teachers(make_encoder(embed_dim=8), teachers=both)
    assert all(isinstance(m.pooled, torch.nn.Linear) for m in other.matches)


def test_a_teacher_has_no_say_where_it_sees_nothing():
    """The radar of a patch of optics only tells nothing: that patch counts for the other teacher."""
    encoder, batch = make_encoder(embed_dim=16), make_batch(6)
    radar = teacher(1, s2_bands=())
    objective = Teachers(encoder, teachers=(radar,), hiding=KEEP)
    batch["image_s1"][2:] = NAN
    losses = objective(encoder, batch, seeded())
    objective.eval()
    few = {k: v[:2] for k, v in batch.items()}
    torch.testing.assert_close(
        losses["dense_0"], objective(encoder, few, seeded())["dense_0"], rtol=1e-3, atol=1e-4
    )
    nobody = {k: v[2:] for k, v in batch.items()}
    silent = objective(encoder, nobody, seeded())
    assert silent["loss"].item() == 0
    silent["loss"].backward()
    assert all(bool(p.grad.isfinite().all()) for p in trainable(encoder) if p.grad is not None)


def test_teachers_are_neither_saved_nor_trained():
    one = teacher(1)
    objective = Teachers(make_encoder(), teachers=(one,))
    assert not any(p.requires_grad for p in one.parameters())
    owned = sum(v.numel() for v in objective.state_dict().values())
    assert owned == sum(v.numel() for m in (objective.matches, objective.gathered)
                        for v in m.state_dict().values())  # fmt: skip
    assert not one.training


def test_the_same_teacher_twice_is_refused():
    with pytest.raises(ValueError, match="each once"):
        Teachers(make_encoder(), teachers=("deepsentinel-nano", "deepsentinel-nano"))


def test_the_shipped_encoder_teaches():
    encoder = make_encoder(embed_dim=16)
    objective = Teachers(encoder, teachers=("deepsentinel-nano",))
    losses = objective(encoder, make_batch(2), seeded())
    losses["loss"].backward()
    assert losses["loss"].isfinite()


def test_galileo_is_told_the_month(shared_data: Path):
    """Its real weights; patches of another month have other targets, unknown dates its default."""
    galileo = GalileoEncoder.from_weights(shared_data / "weights/galileo-nano/encoder.pt").eval()
    batch = make_batch(2)
    dated = {
        month: batch
        | {"meta": [PatchMeta(id="a", date_s2=datetime(2020, month, 3, tzinfo=UTC))] * 2}
        for month in (1, 7)
    }
    images = {"s1": batch["image_s1"], "s2": batch["image_s2"]}
    for month, asked in dated.items():
        wanted = galileo(**images, month=month).embedding
        torch.testing.assert_close(look(galileo, asked).embedding, wanted, rtol=1e-4, atol=1e-4)
    undated = batch | {"meta": [PatchMeta(id="a"), dated[1]["meta"][0]]}
    torch.testing.assert_close(
        look(galileo, undated).embedding, galileo(**images).embedding, rtol=1e-4, atol=1e-4
    )
