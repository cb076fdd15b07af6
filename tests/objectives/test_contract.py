"""What every objective promises, one after the other over the registry."""

import pytest
import torch

from deepsentinel.objectives.registry import OBJECTIVES
from deepsentinel.objectives.tile2vec import Tile2Vec
from deepsentinel.objectives.translation import Translation
from deepsentinel.objectives.views import speckled
from tests.objectives.conftest import (
    NAN,
    make,
    make_batch,
    make_encoder,
    seeded,
    train,
    trainable,
    with_bands,
)

every = pytest.mark.parametrize("name", OBJECTIVES)
FALLS = {"pix2pix": "l1"}
"""What falls where players pull the loss both ways; of ALAE see test_adversarial."""
STEPS = {"moco": 60, "distillation": 80, "vicreg": 160}
"""For the slower ones, instead of 40; VICReg's hinges let go late among eight patches."""
EASIER = {
    "moco": {
        "temperature": 0.07,
        "momentum": 0.9,
        "between": "views",
        "view": {"turn": False, "crop": 1.0, "hiding": {"s1": 0, "s2": 0, "bands": 0.1, "hole": 0}},
    }
}
"""For sixty steps, where a queue of other patches sets a hard task."""


def finite(*modules: torch.nn.Module) -> bool:
    grads = [p.grad for p in trainable(*modules) if p.grad is not None]
    return bool(grads) and all(bool(g.isfinite().all()) for g in grads)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n != "alae"])
def test_a_few_steps_lower_the_loss_by_a_seventh(name):
    """On five batches in turn, with the same draws each time; MoCo's queue is full after two."""
    encoder = make_encoder()
    batches = [make_batch(8, seed=i) for i in range(5)]
    course = train(
        encoder,
        make(name, encoder, **EASIER.get(name, {})),
        lambda step: batches[step % 5],
        steps=STEPS.get(name, 40),
        lr=1e-3 if name == "moco" else 3e-3,
        generator=lambda step: seeded(step % 5),
    )
    losses = [losses[FALLS.get(name, "loss")] for losses in course]
    first, last = sum(losses[5:10]) / 5, sum(losses[-10:]) / 10
    assert last < first - abs(first) / 7


@every
@pytest.mark.parametrize("fusion", ["early", "mid", "late"])
def test_every_parameter_of_the_encoder_gets_a_gradient(name, fusion):
    encoder = make_encoder(fusion=fusion, embed_dim=16)
    objective = make(name, encoder)
    objective(encoder, make_batch(6), seeded())["loss"].backward()
    assert not [n for n, p in encoder.named_parameters() if p.grad is None]
    # Of Sentinel-2 a translation from Sentinel-1 sees nothing; all others use the whole network.
    still = [n for n, p in encoder.named_parameters() if not p.grad.any()]
    assert not [n for n in still if not (isinstance(objective, Translation) and "gates" not in n)]
    assert not [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert finite(encoder, objective)


@every
def test_on_a_vit(name):
    encoder = make_encoder("vit_tiny_patch16_224")
    options = {"block": 16} if name == "masked" else {}
    objective = make(name, encoder, **options)
    losses = objective(encoder, make_batch(size=64), seeded())
    losses["loss"].backward()
    assert not [n for n, p in encoder.named_parameters() if p.grad is None]
    assert finite(encoder, objective)


def poor(batch: dict, case: str) -> dict:
    """Batches as corpora really give them."""
    if case == "s1 only":
        return {k: v for k, v in batch.items() if not k.endswith("s2")}
    if case == "s2 only":
        return {k: v for k, v in batch.items() if not k.endswith("s1")}
    if case == "bands":
        return with_bands(batch, s1=("VH",), s2=("B08", "B04", "B03", "B02"))
    images = {k: v.clone() for k, v in batch.items() if k != "meta"}
    if case == "speckle":
        for k in ("image_s1", "neighbour_s1"):
            images[k] = speckled(images[k], 1.0, 0.0, seeded(7))
        return {"meta": batch["meta"], **images}
    for k, image in images.items():
        if k.endswith("s2"):
            image[0, :, 4:] = NAN  # a cloud
            image[1] = NAN
            image[2, 3:9] = NAN
            image[3, :, 2:, 2:] = NAN
        else:
            image[0, 1] = NAN
            image[2] = NAN
            image[3, :, :7] = float("inf")
    return {"meta": batch["meta"], **images}


@every
@pytest.mark.parametrize("case", ["s1 only", "s2 only", "bands", "speckle", "holes"])
def test_sensors_bands_and_places_may_be_missing(name, case):
    """Whatever the draw: loss and gradients stay finite, and no patch is left with nothing."""
    encoder = make_encoder(fusion="mid")
    objective = make(name, encoder)
    for seed in range(2):
        losses = objective(encoder, poor(make_batch(), case), seeded(seed))
        assert all(v.isfinite() for v in losses.values())
        losses["loss"].backward()
        assert finite(encoder, objective)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n != "pix2pix"])
def test_encoder_with_bands_of_its_own(name):
    """Bands that it does not use are no help to a patch; pix2pix needs Sentinel-1."""
    encoder = make_encoder(s1_bands=(), s2_bands=("B11", "B04"))
    batch = with_bands(make_batch(), s2=("B02", "B04"))
    losses = make(name, encoder)(encoder, batch, seeded())
    assert losses["loss"].isfinite()


@every
def test_odd_sizes(name):
    encoder = make_encoder()
    objective = make(name, encoder)
    losses = objective(encoder, make_batch(size=(37, 50)), seeded())
    assert losses["loss"].isfinite()


@every
def test_the_generator_decides_everything(name):
    """Also twice from one state of torch's own generator, which is left alone."""
    encoder, batch = make_encoder(), make_batch()
    objective = make(name, encoder)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = []
    for seed in (3, 3, 4):
        saved = {k: v.clone() for k, v in objective.state_dict().items()}
        found.append(objective(encoder, batch, seeded(seed))["loss"].item())
        objective.load_state_dict(saved)
        assert torch.get_rng_state().equal(before)
    torch.set_rng_state(state)
    assert found[0] == found[1]
    if name != "pix2pix":  # it draws nothing
        assert found[0] != found[2]


@every
def test_the_batch_stays_as_it_is(name):
    encoder, batch = make_encoder(), make_batch()
    images = {k: v.clone() for k, v in batch.items() if k != "meta"}
    make(name, encoder)(encoder, batch, seeded())
    assert all(batch[k].equal(v) for k, v in images.items())


@every
def test_a_resumed_run_has_the_same_losses(name):
    """Everything that a run needs is in two state dicts: queues, teachers, statistics."""

    def begin():
        encoder = make_encoder()
        objective = make(name, encoder)
        optimiser = torch.optim.SGD(trainable(encoder, objective), lr=1e-3)
        return encoder, objective, optimiser

    def steps(encoder, objective, optimiser, which):
        course = []
        for step in which:
            losses = objective(encoder, make_batch(seed=step), seeded(step))
            optimiser.zero_grad()
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(trainable(encoder, objective), 1.0)
            optimiser.step()
            objective.after_step(encoder, step, 4)
            course.append({k: v.item() for k, v in losses.items()})
        return course

    whole = begin()
    steps(*whole, range(2))
    saved = [m.state_dict() for m in whole[:2]]
    saved = [{k: v.clone() for k, v in state.items()} for state in saved]
    wanted = steps(*whole, range(2, 4))
    again = begin()
    with torch.no_grad():
        for p in again[1].parameters():
            p.add_(1.0)
    for module, state in zip(again[:2], saved, strict=True):
        module.load_state_dict(state)
    assert steps(*again, range(2, 4)) == wanted


@every
def test_bfloat16(name):
    encoder, batch = make_encoder(), make_batch(6)
    objective = make(name, encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = objective(encoder, batch, seeded())
    assert losses["loss"].dtype == torch.float32
    losses["loss"].backward()
    assert finite(encoder, objective)
    exact = make(name, make_encoder())(make_encoder(), batch, seeded())["loss"]
    assert losses["loss"].item() == pytest.approx(exact.item(), rel=0.2, abs=0.1)


@every
def test_only_the_loss_carries_a_graph(name):
    encoder = make_encoder()
    losses = make(name, encoder)(encoder, make_batch(), seeded())
    assert [k for k, v in losses.items() if v.requires_grad] == ["loss"]
    assert all(v.ndim == 0 for v in losses.values())


PICTURES = {
    "masked": [f"{s}_{what}" for what in ("shown", "drawn", "truth") for s in ("s1", "s2")],
    "vae": [f"{s}_{what}" for what in ("drawn", "truth") for s in ("s1", "s2")],
    "pix2pix": ["s1_shown", "drawn", "truth"],
    "alae": [f"{s}_{what}" for what in ("truth", "again", "noise") for s in ("s1", "s2")],
}


@every
def test_pictures_and_scores_are_what_they_say(name):
    encoder, batch = make_encoder().eval(), make_batch()
    objective = make(name, encoder)
    shown = objective.images(encoder, batch)
    assert list(shown) == PICTURES.get(name, [])
    for picture in shown.values():
        assert picture.shape == (4, 3, 32, 32)
        assert 0 <= picture.min() <= picture.max() <= 1
        assert not picture.requires_grad
    scores = objective.scores(encoder, batch)
    assert sorted(scores) == (["psnr", "ssim"] if name == "pix2pix" else [])


@every
def test_a_batch_without_images_is_refused(name):
    encoder = make_encoder()
    with pytest.raises(ValueError, match=r"has no image_s1 or image_s2|Tile2Vec needs"):
        make(name, encoder)(encoder, {"mask": torch.zeros(2, 32, 32)}, seeded())


@pytest.mark.parametrize("name", ["simclr", "moco", "byol", "vicreg", "tile2vec"])
def test_a_batch_of_one_is_refused_where_patches_are_compared(name):
    encoder = make_encoder()
    with pytest.raises(ValueError, match=r"a batch of 1 patch.*drop_last=True"):
        make(name, encoder)(encoder, make_batch(1), seeded())


def test_tile2vec_without_neighbours_says_how_to_get_them():
    encoder = make_encoder()
    batch = {k: v for k, v in make_batch().items() if not k.startswith("neighbour")}
    with pytest.raises(ValueError, match=r"WithNeighbours\(dataset\)"):
        Tile2Vec(encoder)(encoder, batch, seeded())
