"""Reading a corpus: patches by number, any bands in any order, as codes or in physical units."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deepsentinel.bands import Sensor
from deepsentinel.corpus.arrays import ArraySpec, corpus_arrays
from deepsentinel.corpus.decode import (
    DamagedError,
    decode_codes,
    decode_physical,
    room_for,
    shown,
)
from deepsentinel.corpus.facts import load_info
from deepsentinel.corpus.fetch import FetchedPatch, Stored, fetch_spans
from deepsentinel.corpus.format import (
    DATA_PATH,
    INDEX_PATH,
    JOURNAL_PATH,
    PATCHES_PER_SHARD,
    WORK_PATH,
    CorpusInfo,
)
from deepsentinel.corpus.index import record_columns, row_record
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.pending import Pending, pending_patches
from deepsentinel.corpus.places import Places
from deepsentinel.corpus.protocol import Bands, Room, View
from deepsentinel.corpus.published import PublishedIndex
from deepsentinel.corpus.wanted import Wanted, Wishes
from deepsentinel.errors import (
    CorruptCorpusError,
    NotAuthorisedError,
    SplitError,
    StoreError,
    TransientError,
    UnknownNameError,
    nearest,
)
from deepsentinel.store import Span, Store, is_local, open_store, pinned

T = TypeVar("T")


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
        self._published = PublishedIndex(self._store, remote=self._remote)
        self._static = load_info(
            self._store, index_crc=self._published.stated_info_crc if self._checksum else None
        )
        self._arrays = corpus_arrays(self._static)
        self._wishes = Wishes(self._static)
        self._pending = self._find_pending()
        self._patches = pinned(self._store, INDEX_PATH)  # a corpus that changes has another index
        _ = self._places  # an index that cannot be read is an error here, not in some worker

    def __repr__(self) -> str:
        return f"Corpus({self._store.url!r}, checksum={self._checksum})"

    def __len__(self) -> int:
        return len(self._places.rows)

    def __getstate__(self) -> dict[str, Any]:
        cached = {"info", "_places", "index", "_records"}
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
        plan = self._wishes.resolve(sensors, bands, rasters)
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
        plan = self._wishes.resolve(sensors, bands, rasters)
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
        plan = self._wishes.resolve(sensors, None, rasters)
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
        found = self._fetch(places, self._wishes.resolve(sensors, None, rasters).names)
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
        plan = self._wishes.resolve(sensors, bands, rasters)
        return self._physical(patch.number, plan, patch.data, room or {}, view)

    # ---------------------------------------------------------------- bytes to pixels

    def _physical(
        self,
        number: int,
        plan: Wanted,
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
                    out = room_for(self._arrays[sensor], len(positions), view)
                self._decode_sensor(number, sensor, positions, stored, out, view=view)
                found[sensor] = out
        for name in plan.rasters:
            raster = self._codes(number, name, None, data[name])
            if raster is not None:
                found[name] = np.ascontiguousarray(shown(raster, view))
        return found

    def _codes(
        self, number: int, name: str, positions: tuple[int, ...] | None, data: Stored | None
    ) -> NDArray[Any] | None:
        if data is None:
            return None
        spec = self._arrays[name]
        chunks = range(spec.chunks) if positions is None else positions
        return self._sound(
            number, spec, data, lambda d: decode_codes(spec, d, chunks, checksum=self._checksum)
        )

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
        spec = self._arrays[sensor]
        gaps = int(self._places.gaps[sensor][number])

        def decode(stored: Stored) -> None:
            decode_physical(
                spec,
                stored,
                positions,
                out,
                sensor=sensor,
                gaps=gaps,
                view=view,
                checksum=self._checksum,
            )

        self._sound(number, spec, data, decode)

    def _sound(
        self, number: int, spec: ArraySpec, data: Stored, decode: Callable[[Stored], T]
    ) -> T:
        """Bytes decoded; where they turn out damaged, once more as they are at their origin."""
        try:
            return decode(data)
        except DamagedError:
            [again] = self._fetch([number], [spec.name], fresh=True)
        try:
            return decode(again[spec.name] or b"")
        except DamagedError as error:
            raise self._corrupt(number, spec, error.position, error) from error

    # ---------------------------------------------------------------- places to bytes

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
            f"{self.record(number).id!r}{band}: {str(error).rstrip('.')}. Restore the file from "
            "where the corpus came from; deepsentinel.corpus.verify lists everything that is damaged."
        )

    # ---------------------------------------------------------------- numbers to places

    def _number(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise IndexError(f"patch {i} of a corpus of {len(self)} patches")
        return int(i) % len(self)

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

    def _find_pending(self) -> Pending | None:
        if self._remote or not self._store.exists(JOURNAL_PATH):
            return None
        # The index first: what a writer at work moves into it in between is missing, not double.
        published = self._published.read(["row"])["row"].to_pylist()
        return pending_patches(self._store, self._static, published)

    def _read_index(self, columns: list[str] | None) -> pa.Table:
        table = self._published.read(columns)
        return table if self._pending is None else self._pending.extend(table)
