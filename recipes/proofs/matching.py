"""Radar patches matched with optical ones on synthetic scenes: pairs told apart, places found.

    python -m recipes.proofs.matching

320 synthetic patches of 32 px in 80 scenes, each wholly in one split; nothing is labelled. A
matcher learns on the training scenes which Sentinel-1 and Sentinel-2 patch show one place. Asked
about the test scenes: each right pair and one wrong pair of it (another place, often of the same
scene), and for each patch of one sensor which of all patches of the other shows its place. The
control is the encoder's own embedding of each sensor, and an encoder with random weights. Nothing
is chosen on the test scenes. Three runs differ in their seed.
"""

from typing import Any, Final

import numpy as np
import torch

from deepsentinel import DeepSentinelDataset, Matcher, finetune, load_encoder
from deepsentinel.datasets.augment import Augment
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.training.evaluation.embed import batches
from deepsentinel.training.reports.report import Report, Table
from deepsentinel.training.scoring.matching import MatchingScores
from deepsentinel.training.scoring.retrieval import CUTS, Retrieval, cross_sensor_retrieval
from recipes.proofs.common import NANO, RANDOM, arguments, finish, spread

RUNS: Final = 3
EPOCHS: Final = 10


def main() -> None:
    """Train, search and compare."""
    args = arguments("matching", __doc__)
    root = write_synthetic_corpus(args.out / "corpus", patches=320, patch_size=32, seed=6)
    train, val, test = (
        DeepSentinelDataset(root, split, labels=()) for split in ("train", "val", "test")
    )
    searched = {f"{NANO}, embedding": [cross_sensor_retrieval(load_encoder(), test)]}
    bare = [cross_sensor_retrieval(load_encoder().reinitialised(r), test) for r in range(RUNS)]
    searched[f"{RANDOM}, embedding"] = bare
    pairs: dict[str, list[Any]] = {}
    for name, frozen, random in (
        (f"{NANO}, frozen", True, False),
        (f"{NANO}, fine-tuned", False, False),
        (f"{RANDOM}, fine-tuned", False, True),
    ):
        for run in range(RUNS):
            encoder = load_encoder().reinitialised(run) if random else load_encoder()
            torch.manual_seed(run)
            result = finetune(
                Matcher(encoder, dim=64, head="attention"),
                train,
                val,
                out_dir=args.out / f"{name.replace(', ', '-').replace(' ', '-')}-{run}",
                epochs=EPOCHS,
                batch_size=32,
                lr=2e-3,
                encoder_lr=2e-3 if random else 4e-4,
                freeze_encoder=frozen,
                augment=Augment(),
                patience=None,
                seed=run,
                progress=False,
            )
            searched.setdefault(name, []).append(cross_sensor_retrieval(result.model, test))
            pairs.setdefault(name, []).append(confusion(result.model, test))
            print(f"{name:<35} run {run}: {result}", flush=True)
    finish(report(searched, pairs, len(test)), args.out)


def confusion(matcher: Any, test: DeepSentinelDataset) -> Any:
    """(2, 2) counts of wrong and right pairs by what they were taken for."""
    scores = MatchingScores(matcher.head)
    for batch in batches(test, ("s1", "s2"), 32, 0):
        scores.update(matcher.predict(batch), batch)
    return scores.confusion.matrix().numpy()


def report(
    searched: dict[str, list[Retrieval]], pairs: dict[str, list[Any]], patches: int
) -> Report:
    """Confusion matrices in shares of their rows, and ranks."""
    told = []
    for name, matrices in pairs.items():
        shares = [m / m.sum(1, keepdims=True) for m in matrices]
        told.append(
            {
                "method": name,
                "wrong pairs seen as wrong": spread([s[0, 0] for s in shares]),
                "right pairs seen as right": spread([s[1, 1] for s in shares]),
                "mean": spread([np.diag(s).mean() for s in shares]),
                "counts of all runs": str(np.sum(matrices, 0).tolist()),
            }
        )
    keys = [*(f"recall@{k}" for k in CUTS), "median_rank"]
    chance = [f"{k / patches:.3f}" for k in CUTS] + [f"{(patches + 1) / 2:.1f}"]
    found = [{"method": "chance", "question": "either", **dict(zip(keys, chance, strict=True))}]
    for name, runs in searched.items():
        for question, scores in (
            ("S1", [r.s1_to_s2 for r in runs]),
            ("S2", [r.s2_to_s1 for r in runs]),
        ):
            row = {"method": name, "question": question}
            for key in keys:
                all_runs = [s[key] for s in scores]
                row[key] = spread(all_runs) if len(runs) > 1 else f"{all_runs[0]:.3f}"
            found.append(row)
    note = f"Mean and deviation over {RUNS} runs; {patches} test patches."
    return Report(
        title="Matching across sensors on synthetic scenes",
        tables=(
            Table.of("pairs", told, title="Pairs told apart, synthetic", note=note),
            Table.of("search", found, title="Places found across sensors, synthetic", note=note),
        ),
    )


if __name__ == "__main__":
    main()
