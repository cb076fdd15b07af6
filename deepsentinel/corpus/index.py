"""The index of a corpus: one row a patch, as GeoParquet.

A row is first a plain dict that JSON can hold (so that the writer's journal can keep it), then a
row of an Arrow table. The geometry column follows GeoParquet 1.1; it is never decoded here.
"""

import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq

from deepsentinel.corpus.format import CorpusInfo, LabelSpec, dump_json
from deepsentinel.corpus.patch import LabelValue, PatchRecord
from deepsentinel.errors import LabelError
from deepsentinel.store import Store

_DATE = pa.timestamp("us", tz="UTC")
_FACTS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "lon": pa.float64(),
    "lat": pa.float64(),
    "crs": pa.string(),
    "transform": pa.list_(pa.float64()),
    "split": pa.string(),
    "date_s1": _DATE,
    "date_s2": _DATE,
    "orbit_s1": pa.string(),
    "product_s1": pa.string(),
    "product_s2": pa.string(),
    "level_s1": pa.string(),
    "level_s2": pa.string(),
    "boa_offset": pa.int32(),
    "boa_offset_source": pa.string(),
    "boa_offset_confidence": pa.float64(),
    "cloud_percent": pa.float64(),
}
_DATES = ("date_s1", "date_s2")
_BOX = pa.struct(
    [(edge, pa.float64()) for edge in ("x0", "y0", "x1", "y1")] + [("class", pa.int64())]
)
_LABEL_TYPES: dict[str, pa.DataType] = {
    "label": pa.int64(),
    "multilabel": pa.list_(pa.int64()),
    "boxes": pa.list_(_BOX),
    "target": pa.list_(pa.float64()),
}
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": []}},
}
"""No `crs`: the default of GeoParquet is longitude, latitude on WGS 84 (OGC:CRS84)."""
_INFO_CRC = "deepsentinel.corpus_json.crc32c"
DESCRIPTIVE = {"name", "version", "licence", "citation", "description", "count", "splits"}
"""Facts that may change while the patches stay what they are."""
ROWS_PER_GROUP = 65_536


def index_schema(info: CorpusInfo) -> pa.Schema:
    """Columns of a corpus's index.

    `<array>_offset` and `<array>_size` say where in its shard the patch's bytes lie; `<sensor>_gaps`
    has bit k set where band k holds a pixel that was not observed. All are NULL where the patch
    has no such array.
    """
    columns = {**_FACTS, "shard": pa.int32(), "row": pa.int64()}
    for name in (*info.sensors, *info.rasters):
        columns[f"{name}_offset"] = pa.int64()
        columns[f"{name}_size"] = pa.int64()
    for sensor in info.sensors:
        columns[f"{sensor}_gaps"] = pa.int32()
    for spec in index_labels(info):
        if spec.name in columns or spec.name == "geometry":
            raise LabelError(
                f"a label cannot be called {spec.name!r}: the index has a column of that name."
            )
        columns[spec.name] = _LABEL_TYPES[spec.kind]
    columns["geometry"] = pa.binary()
    metadata = {"geo": json.dumps(_GEO), _INFO_CRC: info_crc(info.to_json())}
    return pa.schema(list(columns.items()), metadata=metadata)


def info_crc(value: Mapping[str, Any]) -> str:
    """Checksum of what `corpus.json` says, but for texts and counts, which may change.

    Args:
        value: the parsed file, with keys that this version may not know.
    """
    facts = {key: fact for key, fact in value.items() if key not in DESCRIPTIVE}
    return f"{google_crc32c.value(dump_json(facts)):08x}"


def stated_info_crc(schema: pa.Schema) -> str | None:
    """Checksum of `corpus.json` that an index states; `None` where it states none."""
    found = (schema.metadata or {}).get(_INFO_CRC.encode())
    return None if found is None else str(found.decode())


def record_columns(info: CorpusInfo) -> tuple[str, ...]:
    """Columns that make a `PatchRecord`."""
    return (*_FACTS, *(spec.name for spec in index_labels(info)))


def index_labels(info: CorpusInfo) -> tuple[LabelSpec, ...]:
    """Labels that are columns of the index."""
    return tuple(spec for spec in info.labels if not spec.is_raster)


def record_row(record: PatchRecord, info: CorpusInfo) -> dict[str, Any]:
    """Facts and labels of a patch as JSON can hold them."""
    row: dict[str, Any] = {name: getattr(record, name) for name in _FACTS}
    for name in _DATES:
        date: datetime | None = row[name]
        row[name] = None if date is None else date.astimezone(UTC).isoformat()
    row["transform"] = None if record.transform is None else [float(v) for v in record.transform]
    for spec in index_labels(info):
        value = record.labels.get(spec.name)
        row[spec.name] = None if value is None else _label_to_json(spec, value)
    return row


def _label_to_json(spec: LabelSpec, value: Any) -> Any:
    if spec.kind == "label":
        return int(value)
    if spec.kind == "multilabel":
        return sorted(int(v) for v in value)
    if spec.kind == "target":
        return [float(v) for v in value]
    edges = ("x0", "y0", "x1", "y1")
    return [
        {**dict(zip(edges, map(float, box[:4]), strict=True)), "class": int(box[4])}
        for box in value
    ]


def rows_table(rows: Sequence[Mapping[str, Any]], info: CorpusInfo) -> pa.Table:
    """Arrow table of such rows (with `geometry` as hexadecimal text)."""
    schema = index_schema(info)
    columns = []
    for column in schema:
        values = [row.get(column.name) for row in rows]
        if column.name in _DATES:
            values = [None if v is None else datetime.fromisoformat(v) for v in values]
        elif column.name == "geometry":
            values = [None if v is None else bytes.fromhex(v) for v in values]
        columns.append(pa.array(values, type=column.type))
    return pa.Table.from_arrays(columns, schema=schema)


def row_record(row: Mapping[str, Any], info: CorpusInfo) -> PatchRecord:
    """The facts of a patch from its row of the index, as Python values of `record_columns`."""
    facts = {name: row[name] for name in _FACTS}
    for name in _DATES:
        facts[name] = None if facts[name] is None else facts[name].astimezone(UTC)
    if facts["transform"] is not None:
        facts["transform"] = tuple(facts["transform"])
    labels = {
        spec.name: _label_from_row(spec, row[spec.name])
        for spec in index_labels(info)
        if row[spec.name] is not None
    }
    return PatchRecord(**facts, labels=labels)


def _label_from_row(spec: LabelSpec, value: Any) -> LabelValue:
    if spec.kind == "label":
        return int(value)
    if spec.kind == "boxes":
        return tuple((b["x0"], b["y0"], b["x1"], b["y1"], b["class"]) for b in value)
    return tuple(value)


def same_schema(table: pa.Table, info: CorpusInfo) -> pa.Table:
    """A table read from a file with the schema of a new one, to the last detail.

    Parquet gives inner fields of lists other names; written again, the bytes would differ.
    """
    schema = index_schema(info)
    columns = [table[field.name].cast(field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def write_index(table: pa.Table, path: str) -> None:
    """Write the index; the same rows give the same bytes, however they came together."""
    pq.write_table(
        table.combine_chunks(),
        path,
        compression="zstd",
        row_group_size=ROWS_PER_GROUP,
        store_schema=True,
        write_page_checksum=True,
    )


def read_index(store: Store, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of the index, or all of it; reads no byte of the other columns.

    Raises:
        pyarrow.ArrowException: it is not a Parquet file, is damaged, or lacks a column.
    """
    return read_columns(pa.PythonFile(_StoreFile(store, path), mode="r"), columns)


def read_columns(source: pa.NativeFile, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of an index that is open, or all of it; as for `read_index`."""
    file = pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True)
    missing = set(columns or ()) - set(file.schema_arrow.names)
    if missing:
        raise pa.ArrowInvalid(f"columns {sorted(missing)} are missing")
    return file.read(columns=columns, use_threads=False)


class _StoreFile(io.RawIOBase):
    """A file of a store as Arrow wants it: seekable, read by ranges."""

    def __init__(self, store: Store, path: str) -> None:
        super().__init__()
        self._store = store
        self._path = path
        self._length = store.size(path)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {0: 0, 1: self._place, 2: self._length}[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._length - self._place)
        count = left if size is None or size < 0 else min(size, left)
        data = self._store.read_range(self._path, self._place, count)
        self._place += count
        return data
