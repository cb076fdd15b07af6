"""Pretrain an encoder without labels, stop it in the middle, go on, and use what it became.

Synthetic scenes and a few steps, so that it runs offline in a minute; a corpus of your own is a
change of `root`, a real run more steps and a larger network.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import deepsentinel
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.training.pretrain import PretrainResult

STOPS_AT = 12


class Impatient:
    """A logger that ends the run, as a power cut would."""

    def log_metrics(self, numbers: dict[str, float], step: int) -> None:
        """What Lightning's loggers do with a row of the log."""
        if step == STOPS_AT and "loss" in numbers:
            raise InterruptedError(f"the lights went out at step {step}")


def main(folder: Path) -> None:
    root = write_synthetic_corpus(folder / "corpus", patches=64, patch_size=32)

    def train(logger: Impatient | None = None) -> PretrainResult:
        return deepsentinel.pretrain(
            root,
            out_dir=folder / "run",
            objective="masked",
            backbone="resnet10t",
            embed_dim=64,
            steps=24,
            batch_size=16,
            lr=2e-3,
            ema=0.9,
            log_every=4,
            checkpoint_every=10,
            probe=root,  # its labels are for watching only
            probe_label="landcover_class",
            probe_every=12,
            name="my-first",
            licence="MIT",
            limits="Made from synthetic scenes in a minute. Use it for nothing.",
            progress=False,
            logger=logger,
        )

    try:
        train(Impatient())
    except InterruptedError as stop:
        print(stop)
    result = train()  # from step 10 on, to the same losses
    print(result)
    print("loss", [(step, round(loss, 3)) for step, loss in result.curve("loss")])
    print("kNN", result.curve("knn"), "band statistics", result.curve("knn_band_stats")[0][1])

    encoder = deepsentinel.load_encoder(result.path)
    patch = deepsentinel.DeepSentinelDataset(root, "test", labels=())[0]
    features = encoder.encode(deepsentinel.collate([patch]))
    print(encoder.card.name, encoder.card.training["data"], tuple(features.embedding.shape))


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        main(Path(temporary))
