"""Read a corpus: samples, batches, clouds, and a picture. Runs offline on synthetic scenes."""

from pathlib import Path
from tempfile import TemporaryDirectory

from torch.utils.data import DataLoader

import deepsentinel
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.datasets.transforms import Compose, RandomFlip, RandomRot90, SensorDropout


def main(folder: Path) -> None:
    root = write_synthetic_corpus(folder / "corpus", patches=24, patch_size=64, clouds=True)

    # One sample: a plain dict, in physical units, NaN where nothing was observed.
    dataset = deepsentinel.DeepSentinelDataset(root, split="train")
    sample = dataset[0]
    print(dataset)
    print("keys:     ", list(sample))
    print(
        "patch:    ", sample["meta"].id, f"at {sample['meta'].lon:.3f} E {sample['meta'].lat:.3f} N"
    )
    print("S1 in dB: ", tuple(sample["image_s1"].shape), round(sample["image_s1"].mean().item(), 1))
    print("class:    ", dataset.classes("landcover_class")[int(sample["label"])])
    hidden = sample["image_s2"].isnan().float().mean().item()
    print(f"S2 under clouds and shadows, NaN: {100 * hidden:.0f} %")

    # The index is a GeoDataFrame, one row a patch.
    print(dataset.index[["id", "split", "cloud_percent"]].head(3).to_string(index=False))

    # Any bands, in any order; here three of Sentinel-2 and one of Sentinel-1.
    few = deepsentinel.DeepSentinelDataset(root, "train", bands=("nir", "red", "green", "VH"))
    print("few bands:", few[0]["meta"].bands_s2, few[0]["meta"].bands_s1)

    # Random transforms depend on seed, epoch and patch id, not on workers or order.
    augment = Compose(RandomFlip(), RandomRot90(), SensorDropout(s1=0.3, s2=0.3), seed=0)
    training = deepsentinel.DeepSentinelDataset(root, "train", transforms=augment)
    for epoch in range(2):
        augment.set_epoch(epoch)
        batch = next(iter(DataLoader(training, batch_size=8, collate_fn=deepsentinel.collate)))
        absent = batch["image_s1"].isnan().all(dim=(1, 2, 3)).sum().item()
        print(f"epoch {epoch}: {tuple(batch['image_s2'].shape)}, without S1: {absent} of 8")

    dataset.plot(sample).savefig(folder / "patch.png")
    print("picture:  ", (folder / "patch.png").name)


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        main(Path(temporary))
