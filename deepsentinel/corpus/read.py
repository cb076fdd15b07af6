"""Reading a corpus: patches by number, any bands in any order, as codes or in physical units."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deepsentinel.bands import Sensor, check_sensors, resolve_bands
from deepsentinel.corpus.arrays import ArraySpec, corpus_arrays
from deepsentinel.corpus.catalogue import named
from deepsentinel.corpus.codes import NOT_OBSERVED, S1_SCALE, S2_CODE_OFFSET, S2_SCALE
from deepsentinel.corpus.facts import load_info
from deepsentinel.corpus.fetch import FetchedPatch, Stored, fetch_spans
from deepsentinel.corpus.format import (
    DATA_PATH,
    INDEX_PATH,
    INFO_PATH,
    JOURNAL_PATH,
    PATCHES_PER_SHARD,
    WORK_PATH,
    CorpusInfo,
)
from deepsentinel.corpus.index import (
    read_columns,
    read_index,
    record_columns,
    row_record,
    stated_info_crc,
)
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.pending import Pending, pending_patches
from deepsentinel.corpus.places import Places
from deepsentinel.corpus.protocol import Bands, PatchSource, Room, View
from deepsentinel.corpus.shard import ChunkError, decode_frame, split_patch
from deepsentinel.errors import (
    BandError,
    CorpusNotFoundError,
    CorruptCorpusError,
    NotAuthorisedError,
    SplitError,
    StoreError,
    TransientError,
    UnknownNameError,
    nearest,
)
from deepsentinel.store import Span, Store, is_local, open_store, pinned

_scratch = threading.local()


def open_corpus(
    root: str | Path,
    *,
    checksum: bool = False,
    requester_pays: bool | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
) -> PatchSource:
    """Open a corpus for reading, or a folder in the original DeepSentinel layout as it is.

    Arguments as for `Corpus`; `root` may also be a name of `deepsentinel.corpus.catalogue`.

    Returns:
        A `Corpus`; a `SourceCorpus`, which reads alike, where `root` is a folder of the layout.

    Raises:
        CorpusNotFoundError: there is neither.
        CorpusError: it has a format that this version cannot read.
        StoreError: it cannot be reached; or `cache_dir` for a folder of the layout.
    """
    place = named(root)
    if _may_be_layout(place):
        layout = _layout(place, requester_pays, storage_options, cache_dir)
        if layout is not None:
            return layout
    try:
        return Corpus(
            place,
            checksum=checksum,
            requester_pays=requester_pays,
            storage_options=storage_options,
            cache_dir=cache_dir,
        )
    except CorpusNotFoundError:
        is_url = "://" in str(place)
        layout = _layout(place, requester_pays, storage_options, cache_dir) if is_url else None
        if layout is None:
            raise
        return layout


def _layout(
    root: str | Path,
    requester_pays: bool | str | None,  # noqa: FBT001 - the two ways in which buckets bill
    storage_options: Mapping[str, Any] | None,
    cache_dir: str | Path | None,
) -> PatchSource | None:
    """The samples at a place, if it holds some in the original DeepSentinel layout.

    Raises:
        StoreError: a cache is asked for, which only a corpus can fill.
    """
    from deepsentinel.corpus.source_corpus import SourceCorpus
    from deepsentinel.corpus.sources import source_path
    from deepsentinel.corpus.sources.deepsentinel import DeepSentinelLayout

    path = source_path(root, requester_pays=requester_pays, storage_options=storage_options)
    if not DeepSentinelLayout.detect(path):
        return None
    if cache_dir is not None:
        raise StoreError(
            f"cache_dir={str(cache_dir)!r} cannot serve {root}, which is in the original DeepSentinel "
            "layout and has no checksums that a cache could be held to. Leave cache_dir out, or "
            "make a corpus of it first: `deepsentinel convert`."
        )
    return SourceCorpus(path, kind=DeepSentinelLayout.KIND)


def _may_be_layout(root: str | Path) -> bool:
    """Whether a local folder that is no corpus is there."""
    path = Path(root)
    return path.is_dir() and not (path / INFO_PATH).exists()


class Corpus:
    """A corpus, patch by patch.

    Patches are numbered from 0 in the order of the index. It pickles (another process opens it
    again by itself) and may be used after a fork and by several threads.

    Args:
        root: folder or URL of the corpus; see `deepsentinel.store.open_store`.
        checksum: whether every chunk read is checked against its crc32c (about 5% slower). Bytes
            that cannot be decoded are an error either way, and bytes that came over a network or
            out of a cache are always checked.
        requester_pays: who is billed for what is read from a bucket whose readers pay.
        storage_options: arguments of the storage client, such as credentials.
        cache_dir: a folder that keeps what was read.

    Raises:
        CorpusNotFoundError: there is none; what lies there instead is listed.
        CorpusError: it has a format that this version cannot read.
        CorruptCorpusError: its index cannot be read.
        StoreError: it cannot be reached (`NotAuthorisedError`, `RequesterPaysError`,
            `TransientError`), or an argument that this place cannot serve.

    Example:
        >>> import tempfile
        >>> from deepsentinel.corpus.write import CorpusWriter
        >>> info = CorpusInfo(
        ...     name="tiny",
        ...     sensors=("s2",),
        ...     bands={"s2": ("B02", "B03", "B04")},
        ...     patch_size=16,
        ...     resolution_m=10,
        ... )
        >>> root = Path(tempfile.mkdtemp())
        >>> with CorpusWriter(root, info) as writer:
        ...     codes = np.full((3, 16, 16), 1500, dtype=np.uint16)
        ...     writer.add(PatchRecord(id="a", split="train"), PatchPixels(s2=codes))
        >>> corpus = Corpus(root)
        >>> len(corpus), corpus.info.splits
        (1, {'train': 1})
        >>> corpus.read_physical(0, bands={"s2": ("red", "blue")})["s2"][:, 0, 0].round(4)
        array([0.05, 0.05], dtype=float32)
    """

    def __init__(
        self,
        root: str | Path,
        *,
        checksum: bool = False,
        requester_pays: bool | str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        self._remote = not is_local(root)
        self._checksum = checksum or cache_dir is not None or self._remote
        self._store = open_store(
            root,
            requester_pays=requester_pays,
            storage_options=storage_options,
            cache_dir=cache_dir,
        )
        self._static = load_info(
            self._store, index_crc=self._stated_crc if self._checksum else None
        )
        self._arrays = corpus_arrays(self._static)
        self._pending = self._find_pending()
        self._patches = pinned(self._store, INDEX_PATH)  # a corpus that changes has another index
        _ = self._places  # an index that cannot be read is an error here, not in some worker

    def __repr__(self) -> str:
        return f"Corpus({self._store.url!r}, checksum={self._checksum})"

    def __len__(self) -> int:
        return len(self._places.rows)

    def __getstate__(self) -> dict[str, Any]:
        cached = {"info", "_places", "index", "_records", "_plans", "_index_bytes"}
        return {k: v for k, v in self.__dict__.items() if k not in cached}

    @property
    def url(self) -> str:
        """Where the corpus lies."""
        return self._store.url

    @property
    def store(self) -> Store:
        """Where its bytes come from."""
        return self._store

    @property
    def unfinished(self) -> bool:
        """Whether a writer is at work on it, or was interrupted: there may be more to come.

        What was completed by the time the corpus was opened is in it all the same.
        """
        return self._store.exists(WORK_PATH)

    @property
    def published(self) -> int:
        """Patches that the index names; those behind them lie in a shard that is being written."""
        return len(self) if self._pending is None else self._pending.published

    @cached_property
    def info(self) -> CorpusInfo:
        """Facts of the corpus, with the counts of what is there now."""
        splits = self._places.splits
        counts = {name: int((splits.codes == k).sum()) for k, name in enumerate(splits.names)}
        return replace(self._static, count=len(self), splits=counts)

    @cached_property
    def index(self) -> pa.Table:
        """The whole index as an Arrow table, one row a patch; read when first asked for."""
        return self._read_index(None).slice(0, len(self))

    def rows(self, split: str | None = None) -> NDArray[np.int64]:
        """Numbers of the patches in a split, ascending; of all patches for `None`.

        Raises:
            SplitError: there is no such split; those that exist are listed.
        """
        if split is None:
            return np.arange(len(self), dtype=np.int64)
        splits = self._places.splits
        if split not in splits.names:
            raise SplitError(
                f"corpus {self._static.name!r} has no split {split!r}. {nearest(split, splits.names)}"
                " split=None gives all patches."
            )
        return np.flatnonzero(splits.codes == splits.names.index(split)).astype(np.int64)

    def record(self, i: int) -> PatchRecord:
        """Facts and index labels of one patch.

        Raises:
            IndexError: there is no such patch.
        """
        number = self._number(i)
        row = {name: column[number].as_py() for name, column in self._records.items()}
        return row_record(row, self._static)

    def find(self, patch_id: str) -> int:
        """Number of the patch with that id.

        Raises:
            UnknownNameError: there is none.
        """
        ids = self._records["id"]
        found = pc.index(ids, patch_id).as_py()
        if found < 0:
            some = nearest(patch_id, ids.slice(0, 1000).to_pylist(), most=8)
            raise UnknownNameError(
                f"corpus {self._static.name!r} has no patch {patch_id!r}. {some}"
            )
        return int(found)

    def read(
        self,
        i: int,
        *,
        sensors: Sequence[Sensor] | None = None,
        bands: Bands | None = None,
        rasters: Sequence[str] = (),
    ) -> PatchPixels:
        """Codes of one patch.

        Args:
            i: its number.
            sensors: which to read; all for `None`, none for `()`. One that the patch lacks comes as
                `None`.
            bands: which bands of a sensor, in which order; all for `None`.
            rasters: names of masks, pixel targets, `cloud` or `dem` to read as well. One that the
                patch lacks is left out.

        Returns:
            Fresh arrays.

        Raises:
            IndexError: there is no such patch.
            BandError, UnknownNameError: a name that the corpus does not have.
            CorruptCorpusError: stored bytes are missing or damaged; names shard and patch.
        """
        number = self._number(i)
        plan = self._plan(sensors, bands, rasters)
        [data] = self._fetch([number], plan.names)
        codes = {s: self._codes(number, s, plan.bands[s], data[s]) for s in plan.bands}
        planes = {name: self._codes(number, name, None, data[name]) for name in plan.rasters}
        present = {name: plane for name, plane in planes.items() if plane is not None}
        return PatchPixels(s1=codes.get("s1"), s2=codes.get("s2"), rasters=present)

    def read_physical(
        self,
        i: int,
        *,
        sensors: Sequence[Sensor] | None = None,
        bands: Bands | None = None,
        rasters: Sequence[str] = (),
    ) -> dict[str, NDArray[Any]]:
        """One patch in physical units: `s1` in dB, `s2` as reflectance, NaN = not observed.

        Arguments and errors as for `read`. Sensors come as float32 (bands, H, W), rasters as they
        are stored; what the patch lacks is left out.
        """
        number = self._number(i)
        plan = self._plan(sensors, bands, rasters)
        [data] = self._fetch([number], plan.names)
        return self._physical(number, plan, data, {}, None)

    def shards(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The shard that each of some patches lies in; those of a shard are neighbours in its files."""
        return self._places.rows[numbers] // PATCHES_PER_SHARD

    def stored_bytes(
        self,
        numbers: NDArray[np.int64],
        *,
        sensors: Sequence[Sensor] | None = None,
        rasters: Sequence[str] = (),
    ) -> NDArray[np.int64]:
        """Bytes that reading each of some patches moves; arguments otherwise as for `read`."""
        plan = self._plan(sensors, None, rasters)
        total = np.zeros(len(numbers), np.int64)
        for name in plan.names:
            total += self._places.sizes[name][numbers].clip(0)
        return total

    def fetch(
        self,
        numbers: Sequence[int],
        *,
        sensors: Sequence[Sensor] | None = None,
        rasters: Sequence[str] = (),
    ) -> list[FetchedPatch]:
        """Bytes of several patches, still encoded, for `decode`.

        Patches whose bytes lie side by side come in one request an array, and no other byte is
        moved. Arguments and errors otherwise as for `read`.
        """
        places = [self._number(i) for i in numbers]
        found = self._fetch(places, self._plan(sensors, None, rasters).names)
        return [FetchedPatch(n, data) for n, data in zip(places, found, strict=True)]

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
        """A patch that `fetch` brought, as `read_physical` gives it.

        Bytes that turn out damaged are read once more. Arguments and errors as for `read_physical`;
        `room` gives arrays that sensors are decoded into instead of fresh ones, and only what
        `view` shows of each array becomes physical values.
        """
        plan = self._plan(sensors, bands, rasters)
        return self._physical(patch.number, plan, patch.data, room or {}, view)

    # ---------------------------------------------------------------- bytes to pixels

    def _physical(
        self,
        number: int,
        plan: "_Plan",
        data: Mapping[str, Stored | None],
        room: Room,
        view: View | None,
    ) -> dict[str, NDArray[Any]]:
        """Physical values from the bytes of one patch, by array."""
        found: dict[str, NDArray[Any]] = {}
        for sensor, positions in plan.bands.items():
            stored = data[sensor]
            if stored is not None:
                out = room.get(sensor)
                if out is None:
                    shown = _shown(_scratch_plane(self._arrays[sensor]), view).shape
                    out = np.empty((len(positions), *shown), np.float32)
                self._decode_sensor(number, sensor, positions, stored, out, view=view)
                found[sensor] = out
        for name in plan.rasters:
            raster = self._codes(number, name, None, data[name])
            if raster is not None:
                found[name] = np.ascontiguousarray(_shown(raster, view))
        return found

    def _codes(
        self, number: int, name: str, positions: tuple[int, ...] | None, data: Stored | None
    ) -> NDArray[Any] | None:
        if data is None:
            return None
        spec = self._arrays[name]
        wanted = range(spec.chunks) if positions is None else positions
        out = np.empty((len(wanted), spec.size, spec.size), spec.dtype)

        def decode(stored: Stored) -> None:
            for _ in self._decoded(spec, stored, wanted, out):
                pass

        self._decode_sound(number, spec, data, decode)
        return out[0] if spec.channels is None else out

    def _decode_sensor(
        self,
        number: int,
        sensor: Sensor,
        positions: tuple[int, ...],
        data: Stored,
        out: NDArray[np.float32],
        *,
        view: View | None,
    ) -> None:
        """Physical values of one sensor into `out`, band by band while its codes are in the cache."""
        spec = self._arrays[sensor]
        codes = _scratch_plane(spec)
        gaps = int(self._places.gaps[sensor][number])

        def decode(stored: Stored) -> None:
            planes = self._decoded(spec, stored, positions, [codes] * len(positions))
            for position, plane, physical in zip(positions, planes, out, strict=True):
                shown = _shown(plane, view)
                to_physical(sensor, shown, physical)
                if gaps >> position & 1:
                    physical[shown == NOT_OBSERVED[sensor]] = np.nan

        self._decode_sound(number, spec, data, decode)

    def _decode_sound(
        self, number: int, spec: ArraySpec, data: Stored, decode: Callable[[Stored], None]
    ) -> None:
        """Decode bytes; where they turn out damaged, once more as they are at their origin."""
        try:
            decode(data)
        except _DamagedError:
            [again] = self._fetch([number], [spec.name], fresh=True)
        else:
            return
        try:
            decode(again[spec.name] or b"")
        except _DamagedError as error:
            raise self._corrupt(number, spec, error.position, error) from error

    def _decoded(
        self,
        spec: ArraySpec,
        data: Stored,
        wanted: Iterable[int],
        out: Sequence[NDArray[Any]] | NDArray[Any],
    ) -> Iterable[NDArray[Any]]:
        """Each wanted chunk, decoded into its place in `out` when its turn comes."""
        try:
            frames = split_patch(spec, data)
        except ChunkError as error:
            raise _DamagedError(error, None) from error
        for position, plane in zip(wanted, out, strict=True):
            start, size = frames[position]
            try:
                decode_frame(data, start, size, plane, checksum=self._checksum)
            except ChunkError as error:
                raise _DamagedError(error, position) from error
            yield plane

    def _fetch(
        self, places: Sequence[int], names: Sequence[str], *, fresh: bool = False
    ) -> list[dict[str, Stored | None]]:
        """Bytes of arrays of patches, all fetched together; `None` where a patch has no such array."""
        spans = [self._span(place, name) for place in places for name in names]
        try:
            parts = iter(fetch_spans(self._patches, spans, fresh=fresh))
        except (NotAuthorisedError, TransientError):
            raise  # that says nothing about the bytes
        except StoreError as error:
            if len(spans) == 1:
                if self._span(places[0], names[0]) != spans[0]:  # its writer finished it just now
                    return self._fetch(places, names, fresh=fresh)
                raise self._corrupt(places[0], self._arrays[names[0]], None, error) from error
            alone = [self._fetch([p], [n], fresh=fresh)[0][n] for p in places for n in names]
            parts = iter(alone)  # one by one tells which it is
        return [{name: next(parts) for name in names} for _ in places]

    def _span(self, number: int, name: str) -> Span | None:
        start, size = self._places.span(name, number)
        return None if start < 0 else (self._shard_path(number, self._arrays[name]), start, size)

    def _shard_path(self, number: int, spec: ArraySpec) -> str:
        shard = int(self._places.rows[number]) // PATCHES_PER_SHARD
        path = f"{DATA_PATH}/{spec.shard_path(shard)}"
        growing = number >= self.published and not self._store.exists(path)
        return spec.part_path(shard) if growing else path

    def _corrupt(
        self, number: int, spec: ArraySpec, position: int | None, error: Exception
    ) -> CorruptCorpusError:
        band = f", band {spec.channels[position]}" if spec.channels and position is not None else ""
        return CorruptCorpusError(
            f"corpus {self.url}, shard {self._shard_path(number, spec)}, patch "
            f"{self.record(number).id!r}{band}: {_plain(error)}. Restore the file from where the corpus came "
            "from; deepsentinel.corpus.verify lists everything that is damaged."
        )

    # ---------------------------------------------------------------- names to places

    def _number(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise IndexError(f"patch {i} of a corpus of {len(self)} patches")
        return int(i) % len(self)

    @cached_property
    def _plans(self) -> dict[Any, "_Plan"]:
        return {}

    def _plan(
        self,
        sensors: Sequence[Sensor] | None,
        bands: Bands | None,
        rasters: Sequence[str],
    ) -> "_Plan":
        key = (
            sensors if sensors is None or isinstance(sensors, str) else tuple(sensors),
            None if bands is None else tuple((s, _hashable(names)) for s, names in bands.items()),
            _hashable(rasters),
        )
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._make_plan(sensors, bands, rasters)
        return plan

    def _make_plan(
        self,
        sensors: Sequence[Sensor] | None,
        bands: Bands | None,
        rasters: Sequence[str],
    ) -> "_Plan":
        wanted = self._static.sensors if sensors is None else sensors and check_sensors(sensors)
        for sensor in {*wanted, *(bands or ())}:
            if sensor not in self._static.sensors:
                raise UnknownNameError(
                    f"corpus {self._static.name!r} holds no {sensor!r}. "
                    f"{nearest(sensor, self._static.sensors)}"
                )
        for name in rasters:
            if name not in self._static.rasters:
                raise UnknownNameError(
                    f"corpus {self._static.name!r} holds no raster {name!r}. "
                    f"{nearest(name, self._static.rasters)}"
                )
        positions = {s: self._positions(s, (bands or {}).get(s)) for s in wanted}
        return _Plan(positions, tuple(rasters))

    def _positions(self, sensor: Sensor, names: Sequence[str] | None) -> tuple[int, ...]:
        stored = self._static.bands[sensor]
        if names is None:
            return tuple(range(len(stored)))
        resolved = resolve_bands(names, sensor)
        for name in resolved:
            if name not in stored:
                raise BandError(
                    f"corpus {self._static.name!r} does not hold band {name} of {sensor}. "
                    f"{nearest(name, stored)}"
                )
        return tuple(stored.index(name) for name in resolved)

    @cached_property
    def _places(self) -> Places:
        names = (*self._static.sensors, *self._static.rasters)
        columns = ["row", "split"]
        columns += [f"{name}_{part}" for name in names for part in ("offset", "size")]
        columns += [f"{sensor}_gaps" for sensor in self._static.sensors]
        return Places.of(self._read_index(columns), names, self._static.sensors)

    @cached_property
    def _records(self) -> dict[str, pa.ChunkedArray]:
        length = len(self)  # a corpus that grew meanwhile must not show rows that `len` lacks
        table = self._read_index(list(record_columns(self._static)))
        return {name: table[name].slice(0, length) for name in table.column_names}

    @cached_property
    def _index_bytes(self) -> bytes:
        """The whole index of a remote corpus: one request brings what many columns would ask for."""
        return self._store.read(INDEX_PATH)

    def _read_columns(self, columns: list[str] | None) -> pa.Table:
        if not self._remote:
            return read_index(self._store, INDEX_PATH, columns)
        try:
            return read_columns(pa.BufferReader(self._index_bytes), columns)
        except (pa.ArrowException, OSError):
            self.__dict__.pop("_index_bytes", None)  # damaged on its way, perhaps: once more
            return read_columns(pa.BufferReader(self._index_bytes), columns)

    def _stated_crc(self) -> str | None:
        """What the index says of `corpus.json`."""
        return stated_info_crc(self._read_published([]).schema)

    def _find_pending(self) -> Pending | None:
        if self._remote or not self._store.exists(JOURNAL_PATH):
            return None
        # The index first: what a writer at work moves into it in between is missing, not double.
        published = self._read_published(["row"])["row"].to_pylist()
        return pending_patches(self._store, self._static, published)

    def _read_index(self, columns: list[str] | None) -> pa.Table:
        table = self._read_published(columns)
        return table if self._pending is None else self._pending.extend(table)

    def _read_published(self, columns: list[str] | None) -> pa.Table:
        try:
            return self._read_columns(columns)
        except (NotAuthorisedError, TransientError):
            raise  # that says nothing about the bytes
        except (pa.ArrowException, OSError) as error:
            raise CorruptCorpusError(
                f"the index {self.url}/{INDEX_PATH} cannot be read: {_plain(error)}. Restore the file from "
                "where the corpus came from."
            ) from error


class _DamagedError(Exception):
    """Bytes of an array of a patch that are not what was written."""

    def __init__(self, error: ChunkError, position: int | None) -> None:
        super().__init__(str(error))
        self.position = position


@dataclass(frozen=True)
class _Plan:
    """What to read of each patch: positions of bands by sensor, and names of rasters."""

    bands: dict[Sensor, tuple[int, ...]]
    rasters: tuple[str, ...]

    @property
    def names(self) -> tuple[Any, ...]:
        """Arrays to read."""
        return (*self.bands, *self.rasters)


def _plain(error: Exception) -> str:
    return str(error).rstrip(".")


def _hashable(names: Sequence[str]) -> Any:
    return names if isinstance(names, str) else tuple(names)


def _scratch_plane(spec: ArraySpec) -> NDArray[Any]:
    """One plane that the calling thread may overwrite: it stays in the processor's cache."""
    planes = _scratch.__dict__
    key = f"{spec.dtype}{spec.size}"
    if key not in planes:
        planes[key] = np.empty((spec.size, spec.size), spec.dtype)
    plane: NDArray[Any] = planes[key]
    return plane


def _shown(planes: NDArray[Any], view: View | None) -> NDArray[Any]:
    return planes if view is None else view(planes)


def to_physical(sensor: Sensor, codes: NDArray[Any], out: NDArray[np.float32]) -> None:
    """Physical values of codes, into `out`; what was not observed is left for the caller."""
    out[...] = codes
    if sensor == "s2":
        out -= np.float32(S2_CODE_OFFSET)
        out *= np.float32(S2_SCALE)
    else:
        out *= np.float32(S1_SCALE)
