"""What everything that holds patches has in common, so that datasets and statistics take any of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepsentinel.bands import Sensor
from deepsentinel.corpus.fetch import FetchedPatch
from deepsentinel.corpus.format import CorpusInfo
from deepsentinel.corpus.patch import PatchPixels, PatchRecord

Bands = Mapping[Sensor, Sequence[str]]
"""Bands to read by sensor, in the order wanted; a sensor that is left out gives all of its bands."""


Room = Mapping[Sensor, NDArray[np.float32]]
"""Where to decode sensors into: contiguous float32 (bands, H, W) by sensor."""

View = Callable[[NDArray[Any]], NDArray[Any]]
"""What to show of a plane or planes (..., H, W): a NumPy view, such as a window, turned or not."""


class PatchSource(Protocol):
    """What `Corpus` and `SourceCorpus` have in common: patches by number."""

    @property
    def info(self) -> CorpusInfo:
        """Facts of the whole."""

    @property
    def index(self) -> pa.Table:
        """One row a patch."""

    @property
    def url(self) -> str:
        """Where it lies."""

    @property
    def unfinished(self) -> bool:
        """Whether there may be more to come."""

    def __len__(self) -> int: ...

    def rows(self, split: str | None = None) -> NDArray[np.int64]:
        """Numbers of the patches in a split."""

    def record(self, i: int) -> PatchRecord:
        """Facts of one patch."""

    def find(self, patch_id: str) -> int:
        """Number of the patch with that id."""

    def read(
        self,
        i: int,
        *,
        sensors: Sequence[Sensor] | None = None,
        bands: Bands | None = None,
        rasters: Sequence[str] = (),
    ) -> PatchPixels:
        """Codes of one patch."""

    def read_physical(
        self,
        i: int,
        *,
        sensors: Sequence[Sensor] | None = None,
        bands: Bands | None = None,
        rasters: Sequence[str] = (),
    ) -> dict[str, NDArray[Any]]:
        """One patch in physical units."""

    def shards(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which patches are neighbours."""

    def stored_bytes(
        self,
        numbers: NDArray[np.int64],
        *,
        sensors: Sequence[Sensor] | None = None,
        rasters: Sequence[str] = (),
    ) -> NDArray[np.int64]:
        """Bytes that reading each of some patches moves."""

    def fetch(
        self,
        numbers: Sequence[int],
        *,
        sensors: Sequence[Sensor] | None = None,
        rasters: Sequence[str] = (),
    ) -> list[FetchedPatch]:
        """What several patches need for `decode`, in as few requests as can be."""

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
        """A patch that `fetch` brought, or a view of it, in physical units."""
