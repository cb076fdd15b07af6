"""Reading a batch at once: the same samples, in the memory of a batch, copied by nobody."""

import pytest
import torch
from torch.utils.data import DataLoader, Subset

import deepsentinel
from deepsentinel.corpus.source_corpus import SourceCorpus
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.request import check_request
from deepsentinel.datasets.samples import SampleReader
from deepsentinel.datasets.transforms import Compose, RandomCrop, RandomFlip, SensorDropout
from deepsentinel.sample import Sample, SampleList, collate

IMAGES = ("image_s1", "image_s2")


def same(one: dict, other: dict) -> bool:
    return list(one) == list(other) and all(
        torch.equal(v.nan_to_num(-99), other[k].nan_to_num(-99))
        if isinstance(v, torch.Tensor)
        else v == other[k]
        for k, v in one.items()
    )


def plainly(dataset, indices) -> dict:
    """The batch of samples that were read one by one and copied together."""
    return collate([dataset[i] for i in indices])


@pytest.mark.parametrize("clouds", ["nan", "keep"])
@pytest.mark.parametrize("indices", [[0, 1, 2], [2, 0], [1], [1, 1, -1]])
def test_a_batch_is_that_of_single_samples(ragged_root, indices, clouds):
    dataset = DeepSentinelDataset(ragged_root, None, labels=(), clouds=clouds)
    samples = dataset.__getitems__(indices)
    assert all(same(s, dataset[i]) for s, i in zip(samples, indices, strict=True))
    if clouds == "nan" or len(set(indices)) == 1:
        assert same(collate(samples), plainly(dataset, indices))


def test_absent_sensors_are_nan_in_the_memory_of_the_batch(ragged_root):
    dataset = DeepSentinelDataset(ragged_root, None, labels=())
    samples = dataset.__getitems__([0, 1, 2])
    batch = collate(samples)
    assert batch["image_s2"][1].isnan().all()
    assert batch["image_s1"][2].isnan().all()
    assert batch["image_s1"].data_ptr() == samples[0]["image_s1"].data_ptr()


def test_nothing_is_copied_where_images_are_as_read(synthetic_root):
    dataset = DeepSentinelDataset(synthetic_root)
    samples = dataset.__getitems__([3, 1, 7])
    batch = collate(samples)
    for key in IMAGES:
        for place, sample in enumerate(samples):
            assert batch[key][place].data_ptr() == sample[key].data_ptr()


def test_samples_in_another_order_are_copied(synthetic_root):
    dataset = DeepSentinelDataset(synthetic_root)
    samples = dataset.__getitems__([3, 1, 7])
    samples.reverse()
    assert same(collate(samples), plainly(dataset, [7, 1, 3]))
    del samples[0]
    assert same(collate(samples), plainly(dataset, [1, 3]))


class Transposed:
    """A view of the same memory with the same shape that is another picture."""

    def __call__(self, sample: Sample) -> Sample:
        return sample | {k: sample[k].transpose(1, 2) for k in IMAGES}


@pytest.mark.parametrize(
    "transforms",
    [
        Compose(RandomCrop(20), seed=1),
        Compose(RandomFlip(), seed=1),
        Compose(SensorDropout(0.5), seed=1),
        Transposed(),
        lambda sample: sample | {"image_s2": sample["image_s2"][:3] * 2},
    ],
    ids=["crop", "flip", "dropout", "transpose", "bands"],
)
def test_transforms_see_each_sample(synthetic_root, transforms):
    dataset = DeepSentinelDataset(synthetic_root, transforms=transforms)
    indices = list(range(8))
    assert same(collate(dataset.__getitems__(indices)), plainly(dataset, indices))


def test_a_subclass_says_what_a_sample_is(synthetic_root):
    class Doubled(DeepSentinelDataset):
        def __getitem__(self, index: int) -> Sample:
            return super().__getitem__(index) | {"double": torch.tensor(2 * index)}

    (batch,) = DataLoader(Doubled(synthetic_root), batch_size=16, collate_fn=collate)
    assert batch["double"].tolist() == list(range(0, 32, 2))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("transforms", [None, Compose(RandomCrop(24), seed=2)])
def test_loaders_ask_for_batches(synthetic_root, workers, transforms):
    dataset = DeepSentinelDataset(synthetic_root, transforms=transforms)
    loader = DataLoader(
        Subset(dataset, [5, 2, 9, 0, 4]), batch_size=3, num_workers=workers, collate_fn=collate
    )
    first, second = loader
    assert same(first, plainly(dataset, [5, 2, 9]))
    assert same(second, plainly(dataset, [0, 4]))


def test_an_index_out_of_range(synthetic_root):
    dataset = DeepSentinelDataset(synthetic_root)
    with pytest.raises(IndexError, match="patch 16 of 16"):
        dataset.__getitems__([0, 16])


def test_a_source_is_decoded_into_the_batch_too(shared_data):
    source = SourceCorpus(shared_data / "ssl4eo")
    request = check_request(
        source.info, sensors=source.info.sensors, bands=None, labels=(), clouds="keep"
    )
    reader = SampleReader(source, request)
    together = reader.read_together([0, 1])
    assert all(same(s, reader.read(k)) for k, s in enumerate(together))
    assert collate(together)["image_s2"].data_ptr() == together[0]["image_s2"].data_ptr()


def test_a_list_without_memory_is_stacked(synthetic_root):
    dataset = DeepSentinelDataset(synthetic_root, sensors=("s2",), labels=())
    samples = SampleList([dataset[0], dataset[1]], {})
    assert samples.whole("s2") is None
    assert same(deepsentinel.collate(samples), plainly(dataset, [0, 1]))
