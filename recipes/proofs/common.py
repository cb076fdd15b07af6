"""What the proofs share: encoders on the real weights, intervals over seeds and units, output."""

import argparse
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from deepsentinel import collate, load_encoder
from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.encoders.galileo import GalileoEncoder
from deepsentinel.encoders.presto import PrestoEncoder
from deepsentinel.sample import IMAGE_KEYS, Sample
from deepsentinel.training.evaluation.intervals import Interval, interval
from deepsentinel.training.evaluation.probe import PENALTY, standardise
from deepsentinel.training.reports.report import Report

REPLICATES: Final = 2_000
FINEST: Final = 2
NANO: Final = "deepsentinel-nano"
RANDOM: Final = "random weights"
STATISTICS: Final = "band statistics"
Scores = NDArray[np.float64]


def arguments(name: str, doc: str | None) -> argparse.Namespace:
    """`--data` and `--out` of a proof; one thread, so that runs repeat to the last digit."""
    parser = argparse.ArgumentParser(
        prog=f"python -m recipes.proofs.{name}", description=(doc or "").splitlines()[0]
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/proofs") / name)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return args


def encoders(data: Path, *, galileo_patch: int = 8, presto_stride: int = 4) -> dict[str, Any]:
    """The shipped encoder and two public ones, on the weights that lie beside the data."""
    weights = data / "weights"
    return {
        NANO: load_encoder().eval(),
        "galileo-nano": GalileoEncoder.from_weights(
            weights / "galileo-nano/encoder.pt", patch_size=galileo_patch
        ).eval(),
        "presto": PrestoEncoder.from_weights(
            weights / "presto/default_model.pt", stride=presto_stride
        ).eval(),
    }


def fingerprint(encoder: Any) -> str:
    """Eight characters that differ between encoders of different weights."""
    digest = sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def kept(folder: Path, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """What `make` makes, from the folder where an earlier run left it."""
    path = folder / f"{name}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        values = make()
        np.save(path, values)
        print(name, values.shape, flush=True)
    found: NDArray[Any] = np.load(path)
    return found


def only(sample: Sample, sensors: Sequence[Sensor]) -> Sample:
    """The sample with these sensors alone."""
    hidden = [IMAGE_KEYS[s] for s in SENSORS if s not in sensors]
    return {k: v for k, v in sample.items() if k not in hidden}


def pixel_vectors(
    encoder: Any, sample: Sample, sensors: Sequence[Sensor]
) -> NDArray[np.float32] | None:
    """The two finest maps of a network at each pixel, (H W, D), bilinear between cells.

    Coarser maps have few cells on small patches. `None` where these sensors saw nothing.
    """
    batch = collate([only(sample, sensors)])
    images = [batch[IMAGE_KEYS[s]] for s in sensors]
    if not any(bool(image.isfinite().any()) for image in images):
        return None
    extra = {}
    if "month" in getattr(encoder, "INPUTS", ()):
        date = sample["meta"].date_s2 or sample["meta"].date_s1
        extra = {"month": 7 if date is None else date.month}
    with torch.inference_mode():
        maps = encoder.encode(batch, **extra).maps[:FINEST]
    size = images[0].shape[-2:]
    whole = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps]
    vectors: NDArray[np.float32] = torch.cat(whole, 1)[0].flatten(1).T.numpy()
    return vectors


def two_way(values: Scores, *, seed: int = 0) -> Interval:
    """The mean of (seeds, units), with a 95 % interval that draws both anew, with replacement.

    Of a difference of two methods on the same seeds and units the interval is paired.
    """
    generator = np.random.default_rng(seed)
    rows, columns = values.shape
    drawn = generator.multinomial(rows, np.full(rows, 1 / rows), REPLICATES) / rows
    units = generator.multinomial(columns, np.full(columns, 1 / columns), REPLICATES) / columns
    return interval(float(values.mean()), ((drawn @ values) * units).sum(axis=1))


def signed(difference: Interval) -> str:
    """A difference with its interval, and whether that excludes zero."""
    mark = "" if difference.verdict == "same" else " *"
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]{mark}"


def spread(values: Sequence[float] | Scores) -> str:
    """Mean and standard deviation."""
    array = np.asarray(values, dtype=float)
    return f"{array.mean():.3f} ± {array.std(ddof=1):.3f}"


def finish(report: Report, out: Path) -> None:
    """Print a report and write its folder."""
    print("\n" + report.text(), flush=True)
    print(f"\nwritten: {report.write(out / 'report')}")


def logistic(
    train_x: NDArray[Any], train_y: NDArray[Any], test_x: NDArray[Any], *, balanced: bool = False
) -> Scores:
    """Class probabilities (N, K) of the library's probe; K is the greatest class + 1.

    Args:
        train_x: (M, D), NaN = not observed.
        train_y: (M,) class ids.
        test_x: (N, D); a row of NaN gets the frequencies of `train_y`.
        balanced: let every class weigh the same, in the fit and in those frequencies.
    """
    from sklearn.linear_model import LogisticRegression

    classes, counts = np.unique(train_y, return_counts=True)
    known = np.isfinite(train_x).any(axis=1)
    prior = np.full(len(classes), 1 / len(classes)) if balanced else counts / counts.sum()
    said = np.tile(prior, (len(test_x), 1))
    seen = np.isfinite(test_x).any(axis=1)
    if seen.any() and len(np.unique(train_y[known])) == len(classes) > 1:
        train, test = standardise(train_x[known], test_x[seen])
        model = LogisticRegression(
            C=PENALTY / train.shape[1],
            max_iter=1000,
            class_weight="balanced" if balanced else None,
        )
        said[seen] = model.fit(train, train_y[known]).predict_proba(test)
    probabilities = np.zeros((len(test_x), int(classes.max()) + 1))
    probabilities[:, classes] = said
    return probabilities
