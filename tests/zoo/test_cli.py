"""`deepsentinel encoders`: facts for scripts, and weights for work without a network."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepsentinel.cli import app
from deepsentinel.encoders.card import Source
from deepsentinel.encoders.galileo_card import NANO
from deepsentinel.encoders.presto_card import CARD as PRESTO
from deepsentinel.errors import EncoderNotFoundError
from deepsentinel.zoo import load
from deepsentinel.zoo.rows import ROWS, Row
from deepsentinel.zoo.table import PINS
from tests.servers.cloud import Cloud
from tests.servers.hub import Hub

DATA = b"weights" * 100


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows from the Hub only: the shipped encoder may not be in this checkout."""
    monkeypatch.setattr(load, "ROWS", tuple(row for row in ROWS if isinstance(row, Row)))


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["encoders", *arguments], env={"COLUMNS": "400"})
    if result.exception is not None:
        raise result.exception
    return result.output


def test_json_is_a_list_of_objects_with_the_promised_keys(rows: None) -> None:
    found = {row["name"]: row for row in json.loads(printed("--json"))}
    for row in found.values():
        assert {"name", "sensors", "embed_dim", "params", "licence", *PINS} <= set(row)
    assert found["galileo-nano"]["proved_on"] == "published weights"
    assert found["galileo-nano"]["sha256"] == NANO.sources["both"].sha256
    assert found["presto"]["revision"] == PRESTO.sources["both"].revision
    assert found["galileo-base"]["sha256"] is None
    assert found["presto"]["repository"] == PRESTO.sources["both"].repository
    assert json.loads(printed("presto", "--json")) == found["presto"]


def test_the_card_and_the_table(rows: None) -> None:
    card = printed("galileo-nano")
    assert "Use this when" in card
    assert "nasaharvest/galileo" in card
    assert NANO.sources["both"].sha256 in card
    table = printed()
    assert "presto" in table
    assert "shapes only" in table
    with pytest.raises(EncoderNotFoundError, match="Did you mean 'presto'"):
        printed("prsto")


def test_download_then_work_offline(site: Cloud, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.put("nasaharvest/presto", {"default_model.pt": DATA})
    source = Source(
        repository="nasaharvest/presto",
        path="default_model.pt",
        revision=commit,
        sha256=hashlib.sha256(DATA).hexdigest(),
    )
    row = next(row for row in ROWS if row.name == "presto")
    assert isinstance(row, Row)
    pinned = replace(row, card=replace(PRESTO, sources={"both": source}))
    monkeypatch.setattr(load, "ROWS", (pinned,))
    [path] = json.loads(printed("presto", "--download", "--json"))["files"].values()
    assert Path(path).read_bytes() == DATA
    site.forget()
    assert "verified" in printed("presto", "--download")
    assert site.log == []
