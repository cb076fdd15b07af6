"""Does this radar patch show the place of that optical one? And which of all patches does?

No label is needed: patches of one place are right pairs, and wrong ones are made from the batch.
Synthetic scenes, which runs offline.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import deepsentinel
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.training.evaluate import evaluate_model
from deepsentinel.training.scoring.retrieval import cross_sensor_retrieval


def main(folder: Path, *, patches: int = 160, epochs: int = 12) -> None:
    root = write_synthetic_corpus(folder / "corpus", patches=patches, patch_size=32)
    train, val, test = (
        deepsentinel.DeepSentinelDataset(root, split, labels=())
        for split in ("train", "val", "test")
    )
    encoder = deepsentinel.load_encoder()
    print("embeddings as they are:", cross_sensor_retrieval(encoder, test))

    torch.manual_seed(0)  # the head starts at random
    model = deepsentinel.Matcher(encoder, dim=64, head="attention")
    result = deepsentinel.finetune(
        model,
        train,
        val,
        out_dir=folder / "run",
        epochs=epochs,
        lr=3e-3,
        batch_size=16,
        freeze_encoder=True,
        progress=False,
    )
    print(result)

    matcher = deepsentinel.load_model(folder / "run")
    print("matcher's vectors:", cross_sensor_retrieval(matcher, test))
    scores = evaluate_model(matcher, test)
    shares = {name: round(share, 2) for name, share in scores["per_class"].items()}
    print(f"pairs told apart: {scores['match_accuracy']:.2f}, of them {shares}")

    pair = deepsentinel.collate([test[0], test[1]])
    answer = matcher(s1=pair["image_s1"], s2=pair["image_s2"].flip(0))  # the two are swapped
    print("swapped:", answer.probabilities.tolist())


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        main(Path(temporary))
