"""`DeepSentinelDataset`: a corpus as a torch dataset of samples."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datasets import NonGeoDataset

from deepsentinel import plot
from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.corpus.format import CorpusInfo, LabelSpec
from deepsentinel.corpus.opening import open_corpus
from deepsentinel.corpus.protocol import PatchSource
from deepsentinel.corpus.transfer import complete
from deepsentinel.datasets.errors import CorpusDatasetNotFoundError, MissingRGBBandsError
from deepsentinel.datasets.request import BandsLike, Clouds, Request, check_request
from deepsentinel.datasets.samples import SampleReader
from deepsentinel.datasets.transforms import RandomTransform
from deepsentinel.errors import CorpusNotFoundError, LabelError, SampleError
from deepsentinel.features import Detection
from deepsentinel.labels import Scheme
from deepsentinel.sample import PatchMeta, Sample
from deepsentinel.store import is_local


class DeepSentinelDataset(NonGeoDataset):  # type: ignore[misc]  # torchgeo is untyped to mypy
    """Patches of a corpus as samples: dB, reflectance, targets and `meta`.

    Keys, shapes and units of a sample are in `deepsentinel.sample.SAMPLE_KEYS`; what was not
    observed is NaN. A patch that lacks a sensor lacks its key, and `meta.bands_s1` or
    `meta.bands_s2` is empty; `deepsentinel.collate` makes it NaN in a batch.

    Args:
        root: folder or URL of the corpus, or a folder in the original DeepSentinel layout, read as it is.
        split: `"train"`, `"val"`, `"test"` or another split of the corpus; `None` = all patches.
        sensors: which to read; one that the corpus lacks is skipped if the other is there.
        bands: `None` = all that the corpus holds; a mapping from sensor to names (a sensor that
            it leaves out keeps all its bands); or a flat sequence of names, which is then all
            that is read. Any order; the tensors follow it.
        labels: names of labels to read, `()` for none; `"cloud"` and `"dem"` count as names.
            `None` reads every label, where no two would fill the same key.
        clouds: `"nan"` makes S2 not observed under clouds and shadows, where the corpus knows
            them; `"keep"` leaves S2 as it is and adds `cloud`.
        transforms: called with each sample; random ones inside `deepsentinel.datasets.transforms.Compose`.
        download: where to copy the corpus from into the folder `root` before it is opened, as
            `deepsentinel.download` does; `True` continues or finds complete what was begun there.
            `requester_pays` and `storage_options` then belong to that place.
        checksum: verify every stored chunk that is read; what comes over a network always is.
        requester_pays: who is billed for reading a bucket whose readers pay: the id of a Google
            Cloud project, or `True` on S3.
        storage_options: arguments of the storage client, such as credentials.
        cache_dir: a folder that keeps what was read; see `deepsentinel.store.open_store`.

    Raises:
        CorpusNotFoundError: no corpus at `root`; the error is torchgeo's `DatasetNotFoundError` too.
        SplitError, UnknownNameError, BandError, LabelError: a name that the corpus does not have.
        StoreError: the corpus cannot be reached (`NotAuthorisedError`, `RequesterPaysError`,
            `TransientError`), or an argument that its place or this version cannot serve.

    Example:
        >>> import tempfile
        >>> from deepsentinel.datasets.synthetic import write_synthetic_corpus
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_synthetic_corpus(f"{folder}/demo", patches=4, patch_size=32)
        ...     dataset = DeepSentinelDataset(root, None, bands=("B04", "VV"))
        ...     sample = dataset[0]
        >>> list(sample), tuple(sample["image_s2"].shape), sample["meta"].bands_s1
        (['meta', 'image_s1', 'image_s2', 'mask', 'label'], (1, 32, 32), ('VV',))
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = "train",
        *,
        sensors: Sequence[str] = SENSORS,
        bands: BandsLike = None,
        labels: Sequence[str] | None = None,
        clouds: Clouds = "nan",
        transforms: Callable[[Sample], Sample] | None = None,
        download: bool | str = False,
        checksum: bool = False,
        requester_pays: bool | str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        if isinstance(transforms, RandomTransform):
            raise SampleError(
                f"{transforms!r} is random and needs a generator: pass "
                f"transforms=Compose({transforms!r}, seed=...) from deepsentinel.datasets.transforms."
            )
        if download:
            source = None if download is True else download
            complete(root, source, requester_pays=requester_pays, storage_options=storage_options)
            requester_pays = storage_options = None
        self.split = split
        self.transforms = transforms
        self.corpus = _open(
            root,
            checksum=checksum,
            requester_pays=requester_pays,
            storage_options=storage_options,
            cache_dir=cache_dir,
        )
        self.root = root if is_local(root) else self.corpus.url  # that of a signed URL is no secret
        self.rows: NDArray[np.int64] = self.corpus.rows(split)
        self.request: Request = check_request(
            self.info, sensors=sensors, bands=bands, labels=labels, clouds=clouds
        )
        self.reader = SampleReader(self.corpus, self.request)

    @property
    def info(self) -> CorpusInfo:
        """Facts of the corpus."""
        return self.corpus.info

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """Sensors that are read."""
        return tuple(self.request.bands)

    @property
    def bands(self) -> dict[Sensor, tuple[str, ...]]:
        """Bands that are read, by sensor, in the order of the tensors."""
        return dict(self.request.bands)

    @cached_property
    def index(self) -> gpd.GeoDataFrame:
        """The corpus index for the patches of this dataset, in its order, with geometry."""
        frame = self.corpus.index.take(self.rows).to_pandas()
        geometry = gpd.GeoSeries.from_wkb(frame.pop("geometry"))
        return gpd.GeoDataFrame(frame, geometry=geometry, crs="EPSG:4326")

    def scheme(self, label: str | None = None) -> Scheme:
        """Classes of a label that is read, by name; `None` where only one label has classes.

        Raises:
            LabelError: no such label, none or several with classes, or a label without classes.
        """
        found = [s for s in self.request.labels if label in {None, s.name}]
        schemes = [s.scheme for s in found if s.scheme is not None]
        distinct = list({s.name: s for s in schemes}.values())
        if len(distinct) != 1:
            listed = ", ".join(f"{s.name!r} ({s.kind})" for s in self.request.labels) or "(none)"
            raise LabelError(
                f"scheme({label!r}) fits {len(distinct)} label schemes; name one label that has "
                f"classes. Labels that are read: {listed}."
            )
        return distinct[0]

    def classes(self, label: str | None = None) -> tuple[str, ...]:
        """Class names of a label in the order of their ids; see `scheme`."""
        return self.scheme(label).names

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """The sample of one patch, with `meta` first.

        Raises:
            IndexError: the index is out of range.
            CorruptCorpusError: stored bytes are damaged.
        """
        sample = self.reader.read(self._number(index))
        return sample if self.transforms is None else self.transforms(sample)

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """The samples of several patches, read together: what a `DataLoader` asks for.

        The same samples as one by one, but a remote corpus is asked for their bytes in one round of
        requests, and they are decoded into the memory of a batch, which `deepsentinel.collate` need
        not copy.

        Raises:
            IndexError: an index is out of range.
            CorruptCorpusError: stored bytes are damaged.
        """
        if type(self).__getitem__ is not DeepSentinelDataset.__getitem__:
            return [self[i] for i in indices]  # a subclass says what a sample is
        numbers = [self._number(i) for i in indices]
        samples = self.reader.read_together(numbers)
        if self.transforms is not None:
            samples[:] = map(self.transforms, samples)
        return samples

    def _number(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"patch {index} of {len(self)} in split {self.split!r}.")
        return int(self.rows[index])

    def __repr__(self) -> str:
        name = f"{self.info.name!r}{' (synthetic)' if self.info.synthetic else ''}"
        bands = "; ".join(f"{s}: {' '.join(b)}" for s, b in self.request.bands.items())
        labels = ", ".join(s.name for s in self.request.labels) or "none"
        return (
            f"DeepSentinelDataset({name}, split={self.split!r}, {len(self)} patches of "
            f"{self.info.patch_size} px; {bands}; labels: {labels})"
        )

    def __str__(self) -> str:
        return repr(self)

    def plot(
        self,
        sample: Sample,
        show_titles: bool = True,  # noqa: FBT001, FBT002 - torchgeo's signature
        suptitle: str | None = None,
    ) -> Figure:
        """Picture of a sample: true colour, SAR composite, mask with legend, target, boxes.

        Args:
            sample: as `self[i]` returns it; a `prediction` is shown too, (H, W) beside `mask` or
                the `Detection` of this one patch, of which boxes of at least 0.5 are drawn, dotted.
            show_titles: whether each picture has its title.
            suptitle: title of the whole; the patch id by default.

        Raises:
            MissingRGBBandsError: S2 was read without B04, B03 or B02; it is torchgeo's
                `RGBBandsMissingError` too.
        """
        meta: PatchMeta = sample["meta"]
        arrays = {k: v.detach().cpu().numpy() for k, v in sample.items() if isinstance(v, Tensor)}
        panels = _image_panels(arrays, meta) | _target_panels(
            arrays.get("target"), self.request.labels
        )
        masks = {k: v for k, v in arrays.items() if k in {"mask", "prediction"}}
        scheme = self._plot_scheme("mask") if masks else None
        if scheme is not None:
            panels |= {k: plot.mask_image(m, scheme) for k, m in masks.items()}
        shown = np.unique(np.concatenate([m.ravel() for m in masks.values()])) if masks else ()
        return plot.patch_figure(
            panels,
            scheme=scheme,
            classes=[int(i) for i in shown if i >= 0],
            boxes=_boxes(sample, self._plot_scheme("boxes")),
            show_titles=show_titles,
            suptitle=meta.id if suptitle is None else suptitle,
        )

    def _plot_scheme(self, kind: str) -> Scheme | None:
        found = [s.scheme for s in self.request.labels if s.kind == kind]
        return found[0] if found else None


def _boxes(sample: Sample, scheme: Scheme | None) -> list[plot.Boxes]:
    """Boxes of a sample, and those of its prediction that are more likely than not."""
    groups = []
    if "bbox_xyxy" in sample:
        labels = sample["label"].tolist() if "label" in sample else ()
        groups.append(plot.Boxes(sample["bbox_xyxy"].cpu().numpy(), labels, scheme))
    found = sample.get("prediction")
    if isinstance(found, Detection):
        sure = found.scores[0] >= 0.5
        boxes, labels, scores = (
            v[0][sure].cpu() for v in (found.boxes, found.labels, found.scores)
        )
        groups.append(plot.Boxes(boxes.numpy(), labels.tolist(), scheme, scores.tolist()))
    return groups


def _open(
    root: str | Path,
    *,
    checksum: bool,
    requester_pays: bool | str | None,
    storage_options: Mapping[str, Any] | None,
    cache_dir: str | Path | None,
) -> PatchSource:
    try:
        return open_corpus(
            root,
            checksum=checksum,
            requester_pays=requester_pays,
            storage_options=storage_options,
            cache_dir=cache_dir,
        )
    except CorpusNotFoundError as error:
        raise CorpusDatasetNotFoundError(str(error)) from error


def _image_panels(arrays: Mapping[str, NDArray[Any]], meta: PatchMeta) -> dict[str, Any]:
    panels: dict[str, Any] = {}
    if "image_s2" in arrays:
        missing = [b for b in plot.RGB_BANDS if b not in meta.bands_s2]
        if missing:
            raise MissingRGBBandsError(
                f"patch {meta.id!r} was read with bands {' '.join(meta.bands_s2)}; a true-colour "
                f"picture needs {' '.join(missing)} too. Read it with bands=None."
            )
        panels["Sentinel-2"] = plot.rgb(arrays["image_s2"], meta.bands_s2)
    if "image_s1" in arrays:
        panels["Sentinel-1"] = plot.sar_composite(arrays["image_s1"], meta.bands_s1)
    return panels


def _target_panels(
    target: NDArray[Any] | None, labels: Sequence[LabelSpec]
) -> dict[str, plot.RGBImage]:
    """A picture of each quantity of pixels, under its name where the corpus says it."""
    if target is None or target.ndim != 3:
        return {}
    stored = [s.channels for s in labels if s.kind == "target"]
    unnamed = tuple(f"target {i}" if len(target) > 1 else "target" for i in range(len(target)))
    names = stored[0] if stored and len(stored[0]) == len(target) else unnamed
    return {name: plot.value_image(t) for name, t in zip(names, target, strict=True)}
