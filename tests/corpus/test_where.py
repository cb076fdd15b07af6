"""Conditions and selections against plain Python loops over the same rows."""

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.select import Selection
from deepsentinel.corpus.where import where_mask
from deepsentinel.errors import SelectionError, SplitError, UnknownNameError


@pytest.fixture
def corpus(tiny_corpus: Path) -> Corpus:
    return Corpus(tiny_corpus)


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("cloud < 0.5", lambda r: r["cloud_percent"] < 0.5),
        ("0.2 < cloud <= 0.7", lambda r: 0.2 < r["cloud_percent"] <= 0.7),
        ("0.5 > cloud", lambda r: r["cloud_percent"] < 0.5),
        ("split == 'train' or split == 'val'", lambda r: r["split"] in {"train", "val"}),
        ("split in ('train', 'test')", lambda r: r["split"] in {"train", "test"}),
        ("split not in ['train']", lambda r: r["split"] is not None and r["split"] != "train"),
        ("split is None", lambda r: r["split"] is None),
        (
            "orbit is not None and cloud >= 0.3",
            lambda r: r["orbit_s1"] and r["cloud_percent"] > 0.29,
        ),
        ("not (split == 'train')", lambda r: r["split"] is not None and r["split"] != "train"),
        ("date_s1 > '2021-07-01T05:30:04'", lambda r: r["date_s1"].second > 4),
        ("dominant == 'Tree cover'", lambda r: r["dominant"] == 1),
        ("dominant == 2 and boa_offset == -1000", lambda r: r["dominant"] == 2 and r["boa_offset"]),
        ('id == "patch-0003" or lon < -300', lambda r: r["id"] == "patch-0003"),
    ],
)
def test_conditions_hold_where_a_loop_says_so(corpus: Corpus, where, holds) -> None:
    expected = [bool(holds(row)) for row in corpus.index.to_pylist()]
    assert any(expected)
    assert where_mask(corpus.index, where, corpus.info).tolist() == expected


@pytest.mark.parametrize(
    "where",
    [
        "__import__('os').system('true')",
        "cloud.real < 3",
        "cloud < (lambda: 3)()",
        "cloud + 1 < 3",
        "[x for x in (1,)] == cloud",
        "cloud",
        "cloud <",
        "cloud < 'much'",
        "split < 3",
        "cloud == None",
        "split in 'train'",
        "split in ()",
        "split == train",
        "date_s1 > 'yesterday'",
        "dominant == 'Lava'",
        "1 < 2",
        "split is 'train'",
        "",
    ],
)
def test_what_is_no_condition_is_refused_with_the_text(corpus: Corpus, where: str) -> None:
    with pytest.raises(SelectionError, match=r"where=|no column"):
        where_mask(corpus.index, where, corpus.info)


def test_an_unknown_column_names_the_nearest(corpus: Corpus) -> None:
    with pytest.raises(SelectionError, match="cloud"):
        where_mask(corpus.index, "clouds < 10", corpus.info)


def test_a_box_takes_centres_also_across_the_antimeridian(corpus: Corpus) -> None:
    lon = np.asarray([179.0, -179.0, 0.0, 179.5, np.nan])
    table = corpus.index.slice(0, 5)
    for name, values in (("lon", lon), ("lat", np.full(5, 10.0))):
        column = pa.array(values, from_pandas=True)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    assert Selection(bbox=(170, 0, -170, 20)).rows(table, corpus.info).tolist() == [0, 1, 3]
    assert Selection(bbox=(-10, 0, 10, 20)).rows(table, corpus.info).tolist() == [2]


def test_dates_take_what_a_chosen_sensor_saw(corpus: Corpus) -> None:
    table = corpus.index
    days = [datetime(2021, 1, 1 + k, 23, 59, tzinfo=UTC) for k in range(12)]
    late = [datetime(2022, 1, 1, tzinfo=UTC)] * 12
    for name, values in (("date_s1", late), ("date_s2", days)):
        column = pa.array(values, type=table.schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    has_s2 = [k % 5 != 4 or k % 3 == 2 for k in range(12)]
    expected = [k for k in range(2, 6) if has_s2[k]]
    assert Selection(dates="2021-01-03/2021-01-06").rows(table, corpus.info).tolist() == expected
    with pytest.raises(SelectionError, match="none of the 12"):
        Selection(dates="2021-01-03/2021-01-06", sensors=("s1",)).rows(table, corpus.info)
    assert Selection(dates="2021-12-31/..").days == (date(2021, 12, 31), date.max)
    assert len(Selection(dates="../2021-12-31").rows(table, corpus.info)) == sum(has_s2)
    assert len(Selection(dates="2021-12-31/").rows(table, corpus.info)) == 8  # those with s1


def test_a_sensor_and_a_count_choose_too(corpus: Corpus) -> None:
    only = Selection(sensors=("s1",), max_patches=3).rows(corpus.index, corpus.info)
    assert only.tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("choice", "error"),
    [
        ({"bbox": (1, 2, 3)}, SelectionError),
        ({"bbox": (0, 50, 10, 40)}, SelectionError),
        ({"bbox": (0, 0, 200, 10)}, SelectionError),
        ({"dates": "2021-01-01"}, SelectionError),
        ({"dates": "2021-02-01/2021-01-01"}, SelectionError),
        ({"dates": "soon/later"}, SelectionError),
        ({"max_patches": 0}, SelectionError),
        ({"sensors": ("s3",)}, UnknownNameError),
        ({"split": "tset"}, SplitError),
    ],
)
def test_what_cannot_be_meant_is_refused(corpus: Corpus, choice, error) -> None:
    with pytest.raises(error):
        Selection(**choice).rows(corpus.index, corpus.info)
