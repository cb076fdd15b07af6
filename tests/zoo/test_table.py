"""The table for scripts and the one in the docs, which is written by this test's code."""

import os
from pathlib import Path

from deepsentinel.encoders.card import Card, Source
from deepsentinel.zoo.rows import ROWS, Row
from deepsentinel.zoo.table import PINS, facts, markdown

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
START, END = "<!-- table -->\n", "<!-- end of table -->"


def test_the_page_shows_the_rows() -> None:
    """Set DEEPSENTINEL_WRITE_DOCS=1 to write the table anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    table, _, after = rest.partition(END)
    wanted = markdown([row.card for row in ROWS if isinstance(row, Row)]) + "\n"
    if os.environ.get("DEEPSENTINEL_WRITE_DOCS"):
        PAGE.write_text(before + START + wanted + END + after, encoding="utf-8")
    else:
        assert table == wanted


def test_facts_of_every_row() -> None:
    for row in ROWS:
        if isinstance(row, Row):
            found = facts(row.card)
            assert {"name", "sensors", "embed_dim", "params", "licence", *PINS} <= set(found)
            assert found["repository"]


def test_two_towers_give_objects_and_unknown_is_null() -> None:
    source = Source(repository="lab/a", path="w.pt", revision="a" * 40, sha256_prefix="ab")
    found = facts(Card(name="two", sources={"s1": source, "s2": source}))
    assert found["revision"] == {"s1": "a" * 40, "s2": "a" * 40}
    assert found["sha256"] == {"s1": None, "s2": None}
    assert found["sha256_prefix"] == {"s1": "ab", "s2": "ab"}
    assert found["licence"] is None
    assert found["params"] is None
    ours = facts(Card(name="ours", sha256="c" * 64))
    assert (ours["repository"], ours["revision"], ours["sha256"]) == (None, None, "c" * 64)
