"""The Zarr v3 arrays of a corpus: which there are, and their metadata.

Written from the Zarr v3 core specification, its sharding-indexed, blosc, crc32c and vlen-utf8
codecs, and the CF conventions (scale_factor, add_offset, flag_values) that xarray applies.
"""

import base64
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepsentinel.bands import SENSOR_TITLES, Sensor
from deepsentinel.corpus.codes import (
    CLOUD_CLASSES,
    CLOUD_UNKNOWN,
    DTYPES,
    IGNORE_CODE,
    NOT_OBSERVED,
    S1_SCALE,
    S2_OFFSET,
    S2_SCALE,
)
from deepsentinel.corpus.format import PATCHES_PER_SHARD, WORK_PATH, CorpusInfo, LabelSpec

COMPRESSOR = "lz4"
LEVEL = 5


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One array along the patches."""

    name: str
    dtype: np.dtype[Any]
    channels: tuple[str, ...] | None
    """Names along the second axis; `None` where there is none."""
    channel_axis: str = ""
    size: int
    """H and W."""
    fill: float
    attributes: Mapping[str, Any]

    @property
    def chunks(self) -> int:
        """Inner chunks of one patch."""
        return 1 if self.channels is None else len(self.channels)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one inner chunk, decoded."""
        return self.size * self.size * self.dtype.itemsize

    @property
    def patch_shape(self) -> tuple[int, ...]:
        """Shape of one patch."""
        plane = (self.size, self.size)
        return plane if self.channels is None else (self.chunks, *plane)

    def shard_path(self, shard: int) -> str:
        """File of one shard, relative to the Zarr group."""
        return "/".join([self.name, "c", str(shard), *("0" for _ in self.patch_shape)])

    def part_path(self, shard: int) -> str:
        """File of a shard that is being written, relative to the corpus."""
        return f"{WORK_PATH}/{self.name}.{shard}.part"


def corpus_arrays(info: CorpusInfo) -> dict[str, ArraySpec]:
    """Every array of a corpus, by name: sensors, then masks and targets, then extras."""
    specs = [_sensor(info, sensor) for sensor in info.sensors]
    specs += [_label(info, spec) for spec in info.labels if spec.is_raster]
    specs += [_extra(info, name) for name in info.extras]
    return {spec.name: spec for spec in specs}


def _sensor(info: CorpusInfo, sensor: Sensor) -> ArraySpec:
    scale, offset = {"s1": (S1_SCALE, 0.0), "s2": (S2_SCALE, S2_OFFSET)}[sensor]
    quantity, units = {"s1": ("backscatter", "dB"), "s2": ("surface reflectance", "1")}[sensor]
    return ArraySpec(
        name=sensor,
        dtype=np.dtype(DTYPES[sensor]),
        channels=info.bands[sensor],
        channel_axis=f"band_{sensor}",
        size=info.patch_size,
        fill=NOT_OBSERVED[sensor],
        attributes={
            "long_name": f"{SENSOR_TITLES[sensor]} {quantity}",
            "units": units,
            "scale_factor": scale,
            "add_offset": offset,
            "_FillValue": NOT_OBSERVED[sensor],
        },
    )


def _label(info: CorpusInfo, spec: LabelSpec) -> ArraySpec:
    if spec.kind == "target":
        return ArraySpec(
            name=spec.name,
            dtype=np.dtype("float32"),
            channels=spec.channels,
            channel_axis=f"band_{spec.name}",
            size=info.patch_size,
            fill=float("nan"),
            attributes={"long_name": spec.name, "_FillValue": _float_attribute(float("nan"))},
        )
    attributes: dict[str, Any] = {"long_name": spec.name, "ignore": IGNORE_CODE}
    if spec.scheme is not None:
        attributes |= _flags({c.id: c.name for c in spec.scheme.classes})
    return ArraySpec(
        name=spec.name,
        dtype=np.dtype("int16"),
        channels=None,
        size=info.patch_size,
        fill=IGNORE_CODE,
        attributes=attributes,
    )


def _extra(info: CorpusInfo, name: str) -> ArraySpec:
    is_cloud = name == "cloud"
    not_known = _float_attribute(float("nan"))
    cloud = {"long_name": "cloud and cloud shadow", **_flags(CLOUD_CLASSES)}
    dem = {"long_name": "elevation", "units": "m", "_FillValue": not_known}
    return ArraySpec(
        name=name,
        dtype=np.dtype("uint8" if is_cloud else "float32"),
        channels=None,
        size=info.patch_size,
        fill=CLOUD_UNKNOWN if is_cloud else float("nan"),
        attributes=cloud if is_cloud else dem,
    )


def _flags(classes: Mapping[int, str]) -> dict[str, Any]:
    """CF flag attributes: meanings are words separated by blanks, of few characters each."""
    meanings = " ".join(re.sub(r"[^\w.+@-]+", "_", name).strip("_") for name in classes.values())
    return {"flag_values": list(classes), "flag_meanings": meanings}


def _float_attribute(value: float) -> str:
    """A float as xarray keeps `_FillValue` in Zarr v3: base64 of the little-endian double."""
    return base64.standard_b64encode(struct.pack("<d", value)).decode()


def array_metadata(spec: ArraySpec, rows: int) -> dict[str, Any]:
    """`zarr.json` of an array that holds `rows` patches."""
    inner = [1] * (len(spec.patch_shape) - 1) + [spec.size, spec.size]
    sharding = {
        "chunk_shape": inner,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {
                "name": "blosc",
                "configuration": {
                    "typesize": spec.dtype.itemsize,
                    "cname": COMPRESSOR,
                    "clevel": LEVEL,
                    "shuffle": "bitshuffle",
                    "blocksize": 0,
                },
            },
            {"name": "crc32c"},
        ],
        "index_codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
        "index_location": "end",
    }
    axes = [] if spec.channels is None else [spec.channel_axis]
    return _array(
        shape=[rows, *spec.patch_shape],
        chunk_shape=[PATCHES_PER_SHARD, *spec.patch_shape],
        data_type=spec.dtype.name,
        fill_value="NaN" if np.isnan(spec.fill) else int(spec.fill),
        codecs=[{"name": "sharding_indexed", "configuration": sharding}],
        dimension_names=["patch", *axes, "y", "x"],
        attributes=dict(spec.attributes),
    )


def names_metadata(axis: str, names: Sequence[str]) -> dict[str, Any]:
    """`zarr.json` of the coordinate array that names the bands or channels of an axis."""
    return _array(
        shape=[len(names)],
        chunk_shape=[len(names)],
        data_type="string",
        fill_value="",
        codecs=[{"name": "vlen-utf8"}],
        dimension_names=[axis],
        attributes={},
    )


def names_chunk(names: Sequence[str]) -> bytes:
    """The one chunk of that array: count, then length and UTF-8 bytes of each name."""
    parts = [name.encode() for name in names]
    head = struct.pack("<I", len(parts))
    return head + b"".join(struct.pack("<I", len(part)) + part for part in parts)


def group_metadata(info: CorpusInfo, rows: int) -> dict[str, Any]:
    """`zarr.json` of the group, with the metadata of all arrays inside (consolidated)."""
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"title": info.name, "synthetic": info.synthetic},
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": all_metadata(info, rows),
        },
    }


def all_metadata(info: CorpusInfo, rows: int) -> dict[str, dict[str, Any]]:
    """`zarr.json` of every array by name, coordinates included."""
    found: dict[str, dict[str, Any]] = {}
    for spec in corpus_arrays(info).values():
        found[spec.name] = array_metadata(spec, rows)
        if spec.channels is not None:
            found[spec.channel_axis] = names_metadata(spec.channel_axis, spec.channels)
    return found


def _array(
    *,
    shape: list[int],
    chunk_shape: list[int],
    data_type: str,
    fill_value: str | int,
    codecs: list[dict[str, Any]],
    dimension_names: list[str],
    attributes: dict[str, Any],
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value,
        "codecs": codecs,
        "dimension_names": dimension_names,
        "attributes": attributes,
        "storage_transformers": [],
    }
