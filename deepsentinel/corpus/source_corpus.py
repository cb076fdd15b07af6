"""A folder of source files read like a corpus, without converting it: `SourceCorpus`.

It gives what `convert` with default options would store, patch by patch, decoded from the source's
own files each time: right for a look and for small sets, far slower than a corpus.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepsentinel.bands import Sensor, check_sensors, resolve_bands
from deepsentinel.corpus.codes import NOT_OBSERVED
from deepsentinel.corpus.decode import to_physical
from deepsentinel.corpus.fetch import FetchedPatch
from deepsentinel.corpus.footprint import locate
from deepsentinel.corpus.format import PATCHES_PER_SHARD, CorpusInfo
from deepsentinel.corpus.index import record_row, rows_table
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.plan import Plan, SplitRule, corpus_info, plan_source
from deepsentinel.corpus.protocol import Bands, Room, View
from deepsentinel.corpus.sources import open_source
from deepsentinel.corpus.sources.base import Skipped, SourceOptions
from deepsentinel.corpus.sources.patches import PatchReader
from deepsentinel.corpus.splits import DEFAULT_BLOCK_M, DEFAULT_SPLITS
from deepsentinel.errors import BandError, SplitError, UnknownNameError, nearest

_RULE = SplitRule(shares=DEFAULT_SPLITS, block_m=DEFAULT_BLOCK_M, seed=0)


class SourceCorpus:
    """Patches of a source by number, read like those of a `Corpus`; it pickles.

    Args:
        path: folder of the source.
        kind: which kind it is; detected by default.
        options: how to read it.

    Raises:
        SourceError: the source is not readable, or nothing of it can be read.
    """

    def __init__(
        self, path: str | Path, *, kind: str | None = None, options: SourceOptions | None = None
    ) -> None:
        self._path = Path(path) if isinstance(path, str) else path
        self._options = options or SourceOptions()
        self._source = open_source(self._path, kind=kind, options=self._options)
        self._plan: Plan = plan_source(self._source, patch_size=None, boa_offset="auto", rule=_RULE)
        self._static = corpus_info(self._source, self._plan, name=self._path.resolve().name)

    def __repr__(self) -> str:
        return f"SourceCorpus({str(self._path)!r}, kind={self._source.KIND!r})"

    def __len__(self) -> int:
        return len(self._plan.patches)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in {"index", "_reader"}}

    @property
    def url(self) -> str:
        """The folder."""
        return str(self._path)

    @property
    def unfinished(self) -> bool:
        """Never: a source is as it is."""
        return False

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What the source holds and cannot give, as `convert` would report it."""
        return self._plan.skipped

    @cached_property
    def info(self) -> CorpusInfo:
        """Facts of the whole."""
        splits = Counter(str(p.record.split) for p in self._plan.patches)
        return replace(self._static, count=len(self), splits=dict(splits))

    @cached_property
    def index(self) -> pa.Table:
        """One row a patch, as in a corpus; where its bytes lie is NULL."""
        rows: list[Mapping[str, Any]] = []
        for number, patch in enumerate(self._plan.patches):
            row = record_row(patch.record, self._static)
            lon, lat, outline = locate(patch.record, self._static.patch_size)
            geometry = None if outline is None else outline.hex()
            rows.append(row | {"lon": lon, "lat": lat, "geometry": geometry, "row": number})
        return rows_table(rows, self._static)

    def rows(self, split: str | None = None) -> NDArray[np.int64]:
        """Numbers of the patches in a split, ascending; of all patches for `None`.

        Raises:
            SplitError: there is no such split; those that exist are listed.
        """
        if split is not None and split not in self.info.splits:
            raise SplitError(
                f"source {self._static.name!r} has no split {split!r}. "
                f"{nearest(split, self.info.splits)} split=None gives all patches."
            )
        patches = enumerate(self._plan.patches)
        return np.array([i for i, p in patches if split in {None, p.record.split}], dtype=np.int64)

    def record(self, i: int) -> PatchRecord:
        """Facts and index labels of one patch.

        Raises:
            IndexError: there is no such patch.
        """
        return self._plan.patches[i].record

    def find(self, patch_id: str) -> int:
        """Number of the patch with that id.

        Raises:
            UnknownNameError: there is none.
        """
        ids = [p.record.id for p in self._plan.patches]
        if patch_id not in ids:
            known = nearest(patch_id, ids[:1000], most=8)
            raise UnknownNameError(
                f"source {self._static.name!r} has no patch {patch_id!r}. {known}"
            )
        return ids.index(patch_id)

    def read(
        self,
        i: int,
        *,
        sensors: Sequence[Sensor] | None = None,
        bands: Bands | None = None,
        rasters: Sequence[str] = (),
    ) -> PatchPixels:
        """Codes of one patch; arguments, result and errors as of `Corpus.read`."""
        wanted: Sequence[Sensor] = self._static.sensors
        if sensors is not None:  # none at all reads rasters alone
            wanted = check_sensors(sensors) if len(sensors) else ()
        for sensor in (*wanted, *(bands or {})):
            self._check(sensor, self._static.sensors)
        for name in rasters:
            self._check(name, self._static.rasters)
        positions = {s: self._positions(s, (bands or {}).get(s)) for s in wanted}
        pixels = self._reader.read(self._plan.patches[i])
        codes = {
            s: None if (array := pixels.sensor(s)) is None else array[positions[s]] for s in wanted
        }
        present = {n: pixels.rasters[n] for n in rasters if n in pixels.rasters}
        return PatchPixels(s1=codes.get("s1"), s2=codes.get("s2"), rasters=present)

    def read_physical(
        self,
        i: int,
        *,
        sensors: Sequence[Sensor] | None = None,
        bands: Bands | None = None,
        rasters: Sequence[str] = (),
    ) -> dict[str, NDArray[Any]]:
        """One patch in physical units; arguments, result and errors as of `Corpus.read_physical`."""
        pixels = self.read(i, sensors=sensors, bands=bands, rasters=rasters)
        found: dict[str, NDArray[Any]] = {}
        for sensor in self._static.sensors:
            codes = pixels.sensor(sensor)
            if codes is not None:
                physical = np.empty(codes.shape, dtype=np.float32)
                to_physical(sensor, codes, physical)
                physical[codes == NOT_OBSERVED[sensor]] = np.nan
                found[sensor] = physical
        return found | dict(pixels.rasters)

    def shards(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Patches in groups as large as the shards of a corpus."""
        return numbers // PATCHES_PER_SHARD

    def stored_bytes(
        self,
        numbers: NDArray[np.int64],
        *,
        sensors: Sequence[Sensor] | None = None,
        rasters: Sequence[str] = (),
    ) -> NDArray[np.int64]:
        """Bytes of each patch once decoded: a source does not say what it stores."""
        wanted = self._static.sensors if sensors is None else check_sensors(sensors)
        planes = sum(2 * len(self._static.bands[s]) for s in wanted) + 4 * len(rasters)
        return np.full(len(numbers), planes * self._static.patch_size**2, np.int64)

    def fetch(
        self,
        numbers: Sequence[int],
        *,
        sensors: Sequence[Sensor] | None = None,
        rasters: Sequence[str] = (),
    ) -> list[FetchedPatch]:
        """Nothing yet: a source is read when it is decoded."""
        return [FetchedPatch(int(i), {}) for i in numbers]

    def decode(
        self,
        patch: FetchedPatch,
        *,
        sensors: Sequence[Sensor] | None = None,
        bands: Bands | None = None,
        rasters: Sequence[str] = (),
        room: Room | None = None,
        view: View | None = None,
    ) -> dict[str, NDArray[Any]]:
        """The patch, as `read_physical` gives it, or a view; sensors in `room`, where it is given."""
        found = self.read_physical(patch.number, sensors=sensors, bands=bands, rasters=rasters)
        if view is not None:
            found = {name: np.ascontiguousarray(view(array)) for name, array in found.items()}
        for sensor, place in (room or {}).items():
            if sensor in found:
                place[...] = found[sensor]
                found[sensor] = place
        return found

    @cached_property
    def _reader(self) -> PatchReader:
        return PatchReader(self._source, resampling=self._options.resampling)

    def _check(self, name: str, known: Sequence[str]) -> None:
        if name not in known:
            raise UnknownNameError(
                f"source {self._static.name!r} holds no {name!r}. {nearest(name, known)}"
            )

    def _positions(self, sensor: Sensor, names: Sequence[str] | None) -> list[int]:
        stored = self._static.bands[sensor]
        resolved = stored if names is None else resolve_bands(names, sensor)
        for name in resolved:
            if name not in stored:
                raise BandError(
                    f"source {self._static.name!r} does not hold band {name} of {sensor}. "
                    f"{nearest(name, stored)}"
                )
        return [stored.index(name) for name in resolved]
