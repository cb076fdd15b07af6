import json
import time
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from deepsentinel.corpus.footprint import locate
from deepsentinel.corpus.format import INDEX_PATH, CorpusInfo, LabelSpec, dump_json
from deepsentinel.corpus.index import (
    index_schema,
    read_index,
    record_row,
    row_record,
    rows_table,
    write_index,
)
from deepsentinel.corpus.patch import PatchRecord
from deepsentinel.corpus.read import Corpus
from deepsentinel.errors import CorpusError, LabelError
from deepsentinel.store import open_store


def test_a_record_survives_json_arrow_and_parquet(tmp_path, info, make_patch):
    records = [make_patch(k)[0] for k in range(8)]
    rows = [json.loads(json.dumps(record_row(record, info))) for record in records]
    write_index(rows_table(rows, info), str(tmp_path / "i.parquet"))
    table = read_index(open_store(tmp_path), "i.parquet")
    assert [row_record(row, info) for row in table.to_pylist()] == records


def test_dates_are_utc_whatever_zone_they_came_in(info):
    tokyo = timezone(timedelta(hours=9))
    record = PatchRecord(id="a", date_s1=datetime(2021, 7, 1, 3, tzinfo=tokyo))
    row = rows_table([record_row(record, info)], info).to_pylist()[0]
    found = row_record(row, info).date_s1
    assert found == datetime(2021, 6, 30, 18, tzinfo=UTC)
    assert found.tzinfo is UTC


def test_what_is_not_known_is_null(info):
    row = rows_table([record_row(PatchRecord(id="a"), info)], info).to_pylist()[0]
    assert {key for key, value in row.items() if value is not None} == {"id"}


def test_geo_metadata_is_valid(tiny_corpus):
    geo = json.loads(pq.read_schema(tiny_corpus / "index.parquet").metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["columns"][geo["primary_column"]]["encoding"] == "WKB"


def test_a_label_named_like_a_column(info):
    bad = CorpusInfo(
        name="a",
        sensors=("s1",),
        bands={"s1": ("VV",)},
        labels=(LabelSpec("split", "label"),),
        patch_size=8,
        resolution_m=10,
    )
    with pytest.raises(LabelError, match="cannot be called 'split'"):
        index_schema(bad)


def test_only_the_columns_asked_for_are_read(tiny_corpus):
    store = open_store(tiny_corpus)
    assert read_index(store, INDEX_PATH, ["row", "split"]).column_names == ["row", "split"]
    with pytest.raises(pa.ArrowInvalid, match="s3_offset"):
        read_index(store, INDEX_PATH, ["s3_offset"])


def test_a_million_rows_open_quickly(tmp_path):
    """Opening reads a dozen integer columns: its cost stays below that of reading all of it."""
    count = 200_000
    info = CorpusInfo(
        name="big", sensors=("s1", "s2"), bands={"s1": ("VV",), "s2": ("B02",)},
        patch_size=8, resolution_m=10, count=count,
    )  # fmt: skip
    numbers = pa.array(np.arange(count))
    text = pa.array([f"S2A_MSIL2A_20210701T103031_N0300_R108_T31UFT_{k:07d}" for k in range(count)])
    made = {"id": text, "product_s2": text, "row": numbers, "geometry": text.cast(pa.binary())}
    made |= {f"{s}_{part}": numbers for s in ("s1", "s2") for part in ("offset", "size")}
    made["split"] = pa.array(["train", "val"] * (count // 2))
    schema = index_schema(info)
    columns = [made.get(f.name, pa.nulls(count)).cast(f.type) for f in schema]
    write_index(pa.Table.from_arrays(columns, schema=schema), str(tmp_path / INDEX_PATH))
    (tmp_path / "corpus.json").write_bytes(dump_json(info.to_json()))
    started = time.process_time()
    corpus = Corpus(tmp_path)
    opening = time.process_time() - started
    started = time.process_time()
    assert corpus.index.num_rows == len(corpus) == count
    assert opening < time.process_time() - started
    assert corpus.info.splits == {"train": count // 2, "val": count // 2}
    assert corpus.rows("val")[:2].tolist() == [1, 3]
    assert corpus.find(text[123_456].as_py()) == 123_456


GRID = PatchRecord(id="a", crs="EPSG:32660", transform=(10.0, 0.0, 830000.0, 0.0, -10.0, 100000.0))


def test_a_footprint_across_the_antimeridian_is_cut_there():
    lon, _, outline = locate(GRID, 1000)
    shape = shapely.from_wkb(outline)
    assert shape.geom_type == "MultiPolygon"
    west, south, east, north = shape.bounds
    assert (west, east) == (-180, 180)
    assert 0 < shape.area < 0.02
    assert south < north
    assert abs(lon) > 179


def test_a_footprint_is_the_point_where_no_grid_is_known():
    lon, lat, outline = locate(PatchRecord(id="a", lon=5.0, lat=50.0), 256)
    assert (lon, lat) == (5.0, 50.0)
    assert shapely.from_wkb(outline).equals(shapely.Point(5, 50))
    assert locate(PatchRecord(id="a"), 256) == (None, None, None)


def test_a_given_centre_is_kept():
    lon, lat, _ = locate(PatchRecord(**{**GRID.__dict__, "lon": -179.9, "lat": 0.5}), 1000)
    assert (lon, lat) == (-179.9, 0.5)


@pytest.mark.parametrize("crs", ["EPSG:999999", "not a crs"])
def test_a_crs_that_does_not_exist(crs):
    with pytest.raises(CorpusError, match="no place on Earth"):
        locate(PatchRecord(id="a", crs=crs, transform=(1, 0, 0, 0, 1, 0)), 8)
