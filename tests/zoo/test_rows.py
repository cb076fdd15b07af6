"""Rows of published encoders: local files, options, cards."""

from pathlib import Path

import pytest
import torch

from deepsentinel import list_encoders, load_encoder
from deepsentinel.encoders.card import PROOFS, Card
from deepsentinel.encoders.galileo_card import NANO
from deepsentinel.encoders.measure import macs_per_px
from deepsentinel.encoders.presto_card import CARD as PRESTO
from deepsentinel.errors import UnknownNameError, WeightsError
from deepsentinel.zoo import load
from deepsentinel.zoo.rows import ROWS, Row
from deepsentinel.zoo.torchgeo_rows import TORCHGEO

OURS = [NANO.name, PRESTO.name]
PROVED = "published weights"


@pytest.fixture
def weights(shared_data: Path) -> dict[str, Path]:
    folder = shared_data / "weights"
    return {
        NANO.name: folder / "galileo-nano" / "encoder.pt",
        PRESTO.name: folder / "presto" / "default_model.pt",
    }


@pytest.mark.parametrize("name", OURS)
def test_a_card_says_what_the_loaded_encoder_is(weights: dict[str, Path], name: str) -> None:
    listed = next(row.card for row in ROWS if isinstance(row, Row) and row.name == name)
    loaded = load_encoder(name, weights=weights[name])
    assert loaded.card == listed
    assert not loaded.training
    assert loaded.card.inputs.keys() == {"month", "lonlat"}


def test_stated_costs_are_those_measured(weights: dict[str, Path]) -> None:
    for name, file in {"deepsentinel-nano": None, **weights}.items():
        encoder = load_encoder(name, weights=file)
        assert encoder.card.macs_per_px == macs_per_px(encoder, encoder.bands), name


def test_options_of_a_row(weights: dict[str, Path]) -> None:
    galileo, presto = (weights[name] for name in OURS)
    assert load_encoder("galileo-nano", weights=galileo).strides == (8,)
    four = load_encoder("galileo-nano", weights=galileo, patch_size=4, window=32)
    assert four.strides == (4,)
    assert four.card.macs_per_px is None  # measured in another mode
    assert four.card.proved_on == "another mode"
    assert load_encoder("galileo-nano", weights=galileo, patch_size=4).card.proved_on == PROVED
    averaged = load_encoder("presto", weights=presto, stride=4)
    assert averaged.strides == (4,)
    assert averaged.card.proved_on == "another mode"
    with pytest.raises(UnknownNameError, match="presto has no option 'patch_size'"):
        load_encoder("presto", weights=presto, patch_size=4)
    with pytest.raises(UnknownNameError, match="pinned to one file"):
        load_encoder("presto", revision="main")
    with pytest.raises(UnknownNameError, match="patch_size was given"):
        load_encoder("user/encoder", patch_size=4)
    with pytest.raises(UnknownNameError, match="weights was given"):
        load_encoder("user/encoder", weights=presto)


def test_local_files_are_held_to_the_row(weights: dict[str, Path], tmp_path: Path) -> None:
    wrong = weights["presto"]
    with pytest.raises(WeightsError, match="not the file that galileo-nano pins"):
        load_encoder("galileo-nano", weights=wrong)
    with pytest.raises(WeightsError, match="no weights at"):
        load_encoder("galileo-nano", weights=tmp_path / "encoder.pt")
    with pytest.raises(WeightsError, match=r"names \['s1'\], but galileo-nano has files"):
        load_encoder("galileo-nano", weights={"s1": wrong})


def test_a_pickle_with_code_is_refused_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where nothing pins the file: what it would do is never done."""
    from dataclasses import replace

    target = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (target,)

    file = tmp_path / "encoder.pt"
    torch.save({"norm.weight": Code()}, file)
    from deepsentinel.encoders.published import read_published

    with pytest.raises(WeightsError, match="trusted"):
        read_published(file, None)
    row = next(row for row in ROWS if row.name == NANO.name)
    assert isinstance(row, Row)
    source = replace(NANO.sources["both"], sha256=None)
    free = replace(row, card=replace(NANO, sources={"both": source}))
    monkeypatch.setattr(load, "ROWS", (free,))
    with pytest.raises(WeightsError):
        load_encoder(NANO.name, weights=file)
    assert not target.exists()


def test_rows_state_only_hashes_and_commits_that_can_be() -> None:
    for row in ROWS:
        if not isinstance(row, Row):
            continue
        assert row.card.sources.keys() in ({"both"}, {"s1", "s2"})
        assert row.card.licence
        assert row.card.data_licence
        assert "Use this when" in row.card.limits
        for source in row.card.sources.values():
            for value, digits in ((source.revision, 40), (source.sha256, 64)):
                assert value is None or (
                    len(value) == digits and set(value) <= set("0123456789abcdef")
                )
            assert source.sha256 or source.revision, f"nothing pins {row.name}"


@pytest.mark.parametrize("card", list_encoders(), ids=lambda card: card.name)
def test_every_card_states_every_fact(card: Card) -> None:
    stated = (
        *("title", "sensors", "normalisation_source", "preprocessing", "resolution_m", "min_size"),
        *("backbone", "fusion", "embed_dim", "parameters", "macs_per_px", "licence"),
        *("data_licence", "restrictions", "citation", "proved_on"),
    )
    assert [fact for fact in stated if not getattr(card, fact)] == []
    assert card.bands.keys() == card.levels.keys() == set(card.sensors)
    assert set(card.sensors) <= card.units.keys()
    assert card.normalisation.keys() == {b for bands in card.bands.values() for b in bands}
    assert card.limits.startswith("Use this ")
    assert all(row.sha256 or row.revision for row in card.sources.values())
    assert card.sources or card.sha256
    text = card.to_markdown()
    for place in (
        "input size",
        "restrictions of use",
        "cost",
        "Bands, in the order of the weights",
    ):
        assert place in text


def test_every_row_says_what_it_was_proved_on() -> None:
    """Against what the reference outputs hold, and no more."""
    proved = {card.name: card.proved_on for card in list_encoders()}
    assert {name for name, on in proved.items() if on == PROVED} == set(OURS)
    assert proved["deepsentinel-nano"] == "own weights"
    assert proved["galileo-base"] == proved["galileo-tiny"] == "smaller sister"
    assert all(proved[row.card.name] == "shapes only" for row in TORCHGEO)
    assert set(proved.values()) <= set(PROOFS)
    text = next(card for card in list_encoders() if card.name == "croma-base").to_markdown()
    assert "| proved on | shapes only: files of the published names" in text


def test_listing_has_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "ROWS", tuple(row for row in ROWS if isinstance(row, Row)))
    assert [c.name for c in list_encoders()] == [r.name for r in ROWS if isinstance(r, Row)]
