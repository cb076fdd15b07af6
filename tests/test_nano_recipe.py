"""The recipe of `deepsentinel-nano`: what is hidden, what is asked for, a few steps and their checkpoint."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
NAN = float("nan")


@pytest.fixture
def nano(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(RECIPES)
    import deepsentinel_nano

    yield deepsentinel_nano
    for name in ("deepsentinel_nano", "nano_crops", "nano_scores"):
        sys.modules.pop(name, None)


def labelled(nano: Any, count: int) -> Any:
    """Crops of noise, a third without radar, and teachers that say noise of them."""
    g = torch.Generator().manual_seed(0)
    s1 = torch.randn(count, 2, 64, 64, generator=g).half() * 3 - 14
    spectrum = 0.93 ** torch.arange(256)  # so that each component is its own
    optical, radar = (
        torch.randn(count, 256, generator=g) * spectrum @ torch.randn(256, 256, generator=g)
        for _ in range(2)
    )
    maps = [torch.randn(count, 256, 8, 8, generator=g).half() for _ in range(2)]
    bare = torch.arange(count) % 3 == 0
    s1[bare], radar[bare], maps[1][bare] = NAN, NAN, NAN
    return nano.Labelled(
        s1=s1,
        s2=torch.rand(count, 12, 64, 64, generator=g).half() * 0.4,
        optical=optical,
        radar=radar,
        dense=maps[0],
        echo=maps[1],
        plain=torch.ones(count, dtype=torch.bool),
        imagined=torch.zeros(count, dtype=torch.bool),
    )


def test_clouds_and_bands_never_hide_everything(nano: Any) -> None:
    g = torch.Generator().manual_seed(1)
    s2 = torch.rand(200, 12, 16, 16, generator=g)
    s2[0] = NAN
    found = nano.hidden(s2, g)
    seen = found.isfinite()
    assert not seen[0].any()
    assert seen[1:].flatten(1).any(1).all()
    assert torch.equal(found[seen], s2[seen])
    share = seen[1:].float().mean()
    assert 0.5 < share < 0.95
    cover = nano.clouds(200, 16, g).float().mean((1, 2))
    assert 0.05 < float(cover.min()) < 0.3
    assert 0.7 < float(cover.max()) < 0.95


def test_a_sensor_is_asked_for_its_half_and_for_galileos_guess_of_the_other(nano: Any) -> None:
    """Against numpy: standardise, components; the guess from Galileo's columns alone, centred, halved."""
    crops = labelled(nano, 300)
    pupil = nano.Pupil(nano.untrained(0), crops)
    real = crops.radar.isfinite().all(1)
    optical, radar = crops.optical.numpy(), crops.radar[real].numpy()

    def space(said: Any, count: int, of: Any) -> Any:
        mean, std = said.mean(0), said.std(0, ddof=1)
        rows = np.linalg.svd((said - mean) / std, full_matrices=False)[2][:count]
        galileo = of.copy()
        galileo[:, 128:] = mean[128:]
        return [((x - mean) / std) @ rows.T / np.sqrt(2) for x in (of, galileo)]

    own = space(radar, nano.RADAR, radar)[0]
    guess = space(optical, nano.OPTICAL, radar)[1]
    wanted = np.concatenate([nano.SHY * (guess - guess.mean(0)), own], axis=1)
    found = pupil.of_s1(crops.radar[real]).numpy()
    signs = np.sign((found * wanted).sum(0))  # of components
    assert np.allclose(found, wanted * signs, atol=1e-3)


def test_a_few_steps_teach_both_towers_and_are_kept(
    nano: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = labelled(nano, 90)
    monkeypatch.setattr(nano, "labelled", lambda *_, **__: crops)
    args = argparse.Namespace(seed=0, crops=90, joins=10**9, steps=3, batch=4, lr=1e-3)
    encoder, fresh = nano.untrained(0), nano.untrained(0)
    nano.distil(encoder, [], None, args, tmp_path)
    moved = {
        name.split(".")[1]
        for (name, a), b in zip(encoder.named_parameters(), fresh.parameters(), strict=True)
        if name.startswith("towers") and not torch.equal(a, b)
    }
    assert moved == {"s1", "s2"}
    again = nano.untrained(0)
    nano.distil(again, [], None, args, tmp_path)
    assert "on from step 3" in capsys.readouterr().out
    kept = zip(encoder.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in kept)
