"""`DeepSentinelDataset`: what comes out is what went in, NaN included, in any process."""

import pickle

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader
from torchgeo.datasets import DatasetNotFoundError, NonGeoDataset, RGBBandsMissingError

import deepsentinel
from deepsentinel.bands import S2_BANDS, S2_L1C_BANDS
from deepsentinel.corpus.format import CorpusInfo, LabelSpec
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.write import CorpusWriter
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.errors import CorpusDatasetNotFoundError
from deepsentinel.datasets.indices import EviTarget
from deepsentinel.datasets.synthetic import LANDCOVER
from deepsentinel.datasets.transforms import Compose, RandomFlip
from deepsentinel.errors import (
    BandError,
    CollateError,
    CorpusNotFoundError,
    LabelError,
    SampleError,
    SplitError,
    StoreError,
    UnknownNameError,
)
from deepsentinel.sample import SAMPLE_KEYS, collate

DTYPES = {
    "image_s1": torch.float32,
    "image_s2": torch.float32,
    "mask": torch.int64,
    "label": torch.int64,
    "bbox_xyxy": torch.float32,
    "target": torch.float32,
    "cloud": torch.uint8,
    "dem": torch.float32,
}


def same(one, other) -> bool:
    return list(one) == list(other) and all(
        torch.equal(v.nan_to_num(-99), other[k].nan_to_num(-99))
        if isinstance(v, torch.Tensor)
        else v == other[k]
        for k, v in one.items()
    )


def test_it_is_a_torchgeo_dataset(synthetic_root):
    dataset = deepsentinel.DeepSentinelDataset(synthetic_root)
    assert isinstance(dataset, NonGeoDataset)
    assert (len(dataset), dataset.split) == (16, "train")
    sample = dataset[0]
    assert list(sample) == ["meta", "image_s1", "image_s2", "mask", "label"]
    assert set(sample) <= set(SAMPLE_KEYS)
    assert all(sample[k].dtype == DTYPES[k] for k in sample if k != "meta")
    assert sample["image_s1"].shape == (2, 32, 32)
    assert sample["image_s2"].shape == (12, 32, 32)
    assert sample["mask"].shape == (32, 32)
    assert sample["label"].shape == ()
    assert sample["meta"].bands_s2 == S2_BANDS
    assert "synthetic" in repr(dataset)
    assert str(dataset) == repr(dataset)


def test_values_are_those_that_were_written(ragged_root):
    sample = DeepSentinelDataset(ragged_root, labels=(), clouds="keep")[0]
    db, reflectance = physical_of(0)
    assert np.allclose(sample["image_s1"].numpy(), db, atol=0.005, equal_nan=True)
    assert np.allclose(sample["image_s2"].numpy(), reflectance, atol=1e-6, equal_nan=True)
    assert sample["image_s1"].isnan().sum() == 1
    assert sample["image_s2"].isnan().sum() == 16


def physical_of(seed):
    """What `ragged_root` holds: the same draws, made here once more."""
    rng = np.random.default_rng(seed)
    db = rng.integers(-2500, -200, (2, 16, 16)) / 100
    reflectance = rng.integers(-300, 6000, (13, 16, 16)) / 10_000
    db[0, 5, 5] = np.nan
    reflectance[3, 6, :] = np.nan
    return db, reflectance


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        (None, {"s1": ("VV", "VH"), "s2": S2_L1C_BANDS}),
        ({"s2": ("B12", "red")}, {"s1": ("VV", "VH"), "s2": ("B12", "B04")}),
        ({"s2": ("B10",), "s1": ("VH",)}, {"s1": ("VH",), "s2": ("B10",)}),
        (("nir", "VH", "B2", "VV"), {"s1": ("VH", "VV"), "s2": ("B08", "B02")}),
        (("B04",), {"s2": ("B04",)}),
    ],
)
def test_any_bands_in_any_order(ragged_root, bands, expected):
    whole = DeepSentinelDataset(ragged_root, labels=(), clouds="keep")[0]
    dataset = DeepSentinelDataset(ragged_root, labels=(), clouds="keep", bands=bands)
    assert dataset.bands == expected
    sample = dataset[0]
    for sensor, key in (("s1", "image_s1"), ("s2", "image_s2")):
        names = expected.get(sensor, ())
        assert sample["meta"].bands(sensor) == names
        assert (key in sample) == bool(names)
        if names:
            places = [whole["meta"].bands(sensor).index(n) for n in names]
            assert torch.equal(sample[key].nan_to_num(9), whole[key][places].nan_to_num(9))


def test_sensors(ragged_root):
    only = DeepSentinelDataset(ragged_root, sensors=("s1",), labels=())
    assert only.sensors == ("s1",)
    assert list(only[0]) == ["meta", "image_s1"]
    with pytest.raises(BandError, match=r"sensors=\('s1',\) leaves out"):
        DeepSentinelDataset(ragged_root, sensors=("s1",), bands=("B04",), labels=())
    with pytest.raises(UnknownNameError, match="unknown sensor 's3'"):
        DeepSentinelDataset(ragged_root, sensors=("s3",), labels=())


def test_an_absent_sensor_lacks_its_key(ragged_root):
    dataset = DeepSentinelDataset(ragged_root, labels=("kind", "cover"))
    s1_only, s2_only = dataset[1], dataset[2]
    assert "image_s2" not in s1_only
    assert s1_only["meta"].bands_s2 == ()
    assert "image_s1" not in s2_only
    assert (s1_only["label"], s2_only["label"]) == (-1, 2)
    assert (s1_only["mask"] == -1).all()
    batch = collate([dataset[i] for i in range(3)])
    assert batch["image_s2"][1].isnan().all()
    assert batch["image_s1"][2].isnan().all()
    with pytest.raises(CollateError, match=r"collate_fn=deepsentinel\.collate"):
        next(iter(DataLoader(dataset, batch_size=3)))


@pytest.mark.parametrize(
    ("label", "key", "expected"),
    [
        ("kind", "label", torch.tensor(2)),
        ("tags", "label", torch.tensor([1, 0, 1])),
        ("things", "bbox_xyxy", torch.tensor([[1.0, 2.0, 5.0, 6.0]])),
        ("things", "label", torch.tensor([1])),
        ("yield", "target", torch.tensor([4.5])),
        ("dem", "dem", torch.full((16, 16), 7.5)),
    ],
)
def test_labels(ragged_root, label, key, expected):
    value = DeepSentinelDataset(ragged_root, labels=(label,))[0][key]
    assert value.dtype == DTYPES[key]
    assert torch.equal(value, expected)


def test_raster_labels_are_those_that_were_written(ragged_root):
    rng = np.random.default_rng(0)
    cover = rng.integers(-1, 3, (16, 16))
    height = rng.random((2, 16, 16)).astype(np.float32)
    sample = DeepSentinelDataset(ragged_root, labels=("height", "cover"))[0]
    assert np.array_equal(sample["mask"].numpy(), cover)
    assert np.array_equal(sample["target"].numpy(), height)


def test_what_is_not_known_says_so(ragged_root):
    bare = DeepSentinelDataset(ragged_root, labels=("tags", "height", "cloud", "dem"))[1]
    assert bare["label"].tolist() == [-1, -1, -1]
    assert bare["target"].isnan().all()
    assert bare["target"].shape == (2, 16, 16)
    assert (bare["cloud"] == 255).all()
    assert bare["dem"].isnan().all()
    assert DeepSentinelDataset(ragged_root, labels=("yield",))[1]["target"].isnan().all()
    with pytest.raises(LabelError, match="'s1-only' are not known"):
        DeepSentinelDataset(ragged_root, labels=("things",))[1]


def test_labels_that_collide_or_do_not_exist(ragged_root):
    with pytest.raises(LabelError, match="labels=None asks for all") as error:
        DeepSentinelDataset(ragged_root)
    assert all(repr(name) in str(error.value) for name in ("cover", "kind", "tags", "things"))
    with pytest.raises(LabelError, match="'kind' and 'tags'"):
        DeepSentinelDataset(ragged_root, labels=("kind", "tags"))
    with pytest.raises(LabelError, match="Did you mean 'cover'"):
        DeepSentinelDataset(ragged_root, labels=("covr",))


def test_clouds(ragged_root):
    kept = DeepSentinelDataset(ragged_root, labels=(), clouds="keep")[0]
    hidden = DeepSentinelDataset(ragged_root, labels=(), clouds="nan")[0]
    assert kept["cloud"].dtype == torch.uint8
    assert "cloud" not in hidden
    cloudy = torch.isin(kept["cloud"], torch.tensor([1, 2, 3], dtype=torch.uint8))
    assert cloudy.sum() == 48
    expected = kept["image_s2"].masked_fill(cloudy, float("nan"))
    assert torch.equal(hidden["image_s2"].nan_to_num(9), expected.nan_to_num(9))
    assert torch.equal(hidden["image_s1"].nan_to_num(9), kept["image_s1"].nan_to_num(9))
    both = DeepSentinelDataset(ragged_root, labels=("cloud",))[0]
    assert torch.equal(both["cloud"], kept["cloud"])
    assert both["image_s2"][:, cloudy].isnan().all()
    with pytest.raises(UnknownNameError, match="'keep'"):
        DeepSentinelDataset(ragged_root, labels=(), clouds="kept")


def test_a_corpus_that_lacks_things(tmp_path):
    info = CorpusInfo(
        name="bare", sensors=("s2",), bands={"s2": ("B02", "B04")}, patch_size=16, resolution_m=10
    )
    with CorpusWriter(tmp_path / "c", info) as writer:
        codes = np.full((2, 16, 16), 1500, np.uint16)
        writer.add(PatchRecord(id="a", split="train"), PatchPixels(s2=codes))
    dataset = DeepSentinelDataset(tmp_path / "c", clouds="keep")
    assert list(dataset[0]) == ["meta", "image_s2"]
    assert dataset.index.geometry.isna().all()
    for arguments, error, words in (
        ({"sensors": ("s1",)}, UnknownNameError, "holds only s2"),
        ({"bands": ("B08",)}, BandError, "B02 B04"),
        ({"bands": {"s1": ("VV",)}}, BandError, "corpus 'bare' leaves out"),
        ({"bands": ("B77",)}, BandError, "unknown band 'B77'"),
        ({"bands": ()}, BandError, "asks for nothing"),
        ({"labels": ("cloud",)}, LabelError, "no such raster"),
    ):
        with pytest.raises(error, match=words):
            DeepSentinelDataset(tmp_path / "c", **arguments)


def test_splits(synthetic_root):
    ids = {s: [x["meta"].id for x in DeepSentinelDataset(synthetic_root, s, labels=())]
           for s in ("train", "val", "test", None)}  # fmt: skip
    assert sorted(ids["train"] + ids["val"] + ids["test"]) == sorted(ids[None])
    assert len(set(ids[None])) == 24
    with pytest.raises(SplitError, match="Did you mean 'train'"):
        DeepSentinelDataset(synthetic_root, "trian")


def test_indices(synthetic_root):
    dataset = DeepSentinelDataset(synthetic_root, "val")
    assert same(dataset[-1], dataset[len(dataset) - 1])
    for index in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError, match="of 4 in split 'val'"):
            dataset[index]


def test_nowhere(tmp_path):
    with pytest.raises(CorpusNotFoundError, match="nowhere") as error:
        DeepSentinelDataset(tmp_path / "nowhere")
    assert isinstance(error.value, DatasetNotFoundError | FileNotFoundError)
    assert isinstance(error.value, CorpusDatasetNotFoundError)
    again = pickle.loads(pickle.dumps(error.value))  # noqa: S301 - our own bytes
    assert str(again) == str(error.value)


@pytest.mark.parametrize(
    "argument",
    [{"download": True}, {"requester_pays": "project"}, {"storage_options": {"anon": True}}],
)
def test_what_a_local_folder_cannot_do_is_an_error(synthetic_root, argument):
    with pytest.raises(StoreError, match=f"{next(iter(argument))}="):
        DeepSentinelDataset(synthetic_root, **argument)


def test_transforms(synthetic_root):
    augment = Compose(RandomFlip(1, 0))
    plain, flipped = (DeepSentinelDataset(synthetic_root, transforms=t)[0] for t in (None, augment))
    assert torch.equal(flipped["image_s2"], plain["image_s2"].flip(-1))
    with pytest.raises(SampleError, match="Compose"):
        DeepSentinelDataset(synthetic_root, transforms=RandomFlip())


def test_classes_and_index(synthetic_root, ragged_root):
    dataset = DeepSentinelDataset(synthetic_root, "test")
    assert dataset.scheme("landcover") == dataset.scheme() == LANDCOVER
    assert dataset.classes("landcover_class")[0] == "water"
    with pytest.raises(LabelError, match="'landcover' "):
        dataset.scheme("nothing")
    assert list(dataset.index["id"]) == [s["meta"].id for s in dataset]
    assert dataset.index.crs.to_epsg() == 4326
    inside = [s["meta"] for s in dataset]
    assert all(
        shape.contains_properly(type(shape.centroid)(m.lon, m.lat))
        for shape, m in zip(dataset.index.geometry, inside, strict=True)
    )
    with pytest.raises(LabelError, match="fits 0"):
        DeepSentinelDataset(ragged_root, labels=("yield",)).classes()


def test_meta_says_where_the_patch_is(ragged_root):
    meta = DeepSentinelDataset(ragged_root, labels=())[0]["meta"]
    assert (meta.id, meta.crs) == ("both", "EPSG:32633")
    assert meta.transform == (10.0, 0.0, 5e5, 0.0, -10.0, 5.5e6)
    assert meta.lon == pytest.approx(15.0, abs=0.01)


def test_checksum_reads_the_same(synthetic_root):
    assert same(
        DeepSentinelDataset(synthetic_root, checksum=True)[3],
        DeepSentinelDataset(synthetic_root)[3],
    )


def test_it_pickles(synthetic_root):
    dataset = DeepSentinelDataset(synthetic_root, bands=("B03", "VH"))
    first = dataset[1]
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own bytes
    assert same(again[1], first)
    assert len(pickle.dumps(dataset)) < 20_000


@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python 3.12 and later
def test_workers_read_what_the_main_process_reads(synthetic_root, context):
    dataset = DeepSentinelDataset(synthetic_root, "val", bands=("B03", "VH"))
    here = list(DataLoader(dataset, batch_size=2))
    there = list(DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context=context))
    assert len(here) == len(there) == 2
    assert all(same(a, b) for a, b in zip(here, there, strict=True))
    assert [m.id for b in there for m in b["meta"]] == [s["meta"].id for s in dataset]


class _Count(LightningModule):
    """Takes any batch and remembers it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch):
        self.seen += [m.id for m in batch["meta"]]
        return (self.weight * batch["image_s1"].nan_to_num()).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # lightning 2.6 on torch 2.15
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_lightning_takes_a_batch_with_meta(synthetic_root):
    model = _Count()
    dataset = DeepSentinelDataset(synthetic_root, "val")
    quiet_trainer(max_epochs=1).fit(model, DataLoader(dataset, batch_size=2))
    assert model.seen == [s["meta"].id for s in dataset]


def quiet_trainer(**settings) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def test_plot(synthetic_root, ragged_root):
    dataset = DeepSentinelDataset(synthetic_root)
    sample = dataset[0]
    figure = dataset.plot(sample)
    assert [a.get_title() for a in figure.axes] == ["Sentinel-2", "Sentinel-1", "mask"]
    assert figure.get_suptitle() == sample["meta"].id
    drawn = figure.axes[2].images[0].get_array()
    assert np.array_equal(drawn, LANDCOVER.palette[sample["mask"].numpy()])
    shown = {t.get_text() for t in figure.legends[0].get_texts()}
    assert shown == {LANDCOVER.names[i] for i in sample["mask"].unique()}
    predicted = dataset.plot({**sample, "prediction": sample["mask"]}, False, "mine")
    assert [a.get_title() for a in predicted.axes] == [""] * 4
    assert predicted.get_suptitle() == "mine"
    index = EviTarget(keep_s2=True)(sample)
    titles = [a.get_title() for a in dataset.plot(index).axes]
    assert titles == ["Sentinel-2", "Sentinel-1", "target", "mask"]
    boxes = DeepSentinelDataset(ragged_root, labels=("things",))
    assert len(boxes.plot(boxes[0]).axes[0].lines) == 1
    no_colour = DeepSentinelDataset(synthetic_root, bands=("B04", "B08"))
    with pytest.raises(RGBBandsMissingError, match="B03 B02"):
        no_colour.plot(no_colour[0])


def test_open_corpus_is_shared_with_the_corpus_room(synthetic_root):
    dataset = DeepSentinelDataset(synthetic_root, None)
    assert dataset.info == Corpus(synthetic_root).info
    assert dataset.info.labels[0] == LabelSpec("landcover", "mask", LANDCOVER)
