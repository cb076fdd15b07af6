"""Search across sensors: does the Sentinel-1 vector of a place find its Sentinel-2 vector?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from deepsentinel.errors import ShapeError, TrainingError
from deepsentinel.features import Encoder
from deepsentinel.heads.matching import Matcher, places_of
from deepsentinel.sample import PatchMeta
from deepsentinel.training.evaluation.embed import Samples, embed, evaluating, to_device
from deepsentinel.training.finetuning.loader import in_order

CUTS: Final = (1, 5, 10)
_ROWS: Final = 512


@dataclass(frozen=True)
class Retrieval:
    """How well places are found across sensors, in either direction."""

    s1_to_s2: dict[str, float]
    """`recall@1`, `recall@5`, `recall@10`, `median_rank` with Sentinel-1 as the question."""
    s2_to_s1: dict[str, float]
    """The same with Sentinel-2 as the question."""
    patches: int
    """That were searched, and searched among."""
    empty: int
    """Left out because a sensor observed nothing of them."""

    def __str__(self) -> str:
        words = [
            f"{name}: " + ", ".join(f"{k} {v:.3g}" for k, v in scores.items())
            for name, scores in (("S1 to S2", self.s1_to_s2), ("S2 to S1", self.s2_to_s1))
        ]
        return "; ".join(words) + f" ({self.patches} patches)"


def cross_sensor_retrieval(
    model: Encoder | Matcher,
    dataset: Samples,
    *,
    centre: bool = True,
    batch_size: int = 32,
    num_workers: int = 0,
) -> Retrieval:
    """Search every patch of one sensor among all patches of the other.

    Args:
        model: an encoder, whose embeddings of each sensor alone are compared; or a `Matcher`, whose
            vectors are.
        dataset: map-style dataset of samples with both sensors.
        centre: take from an encoder's embeddings the mean of their sensor, which tells the sensors
            apart and not the places. A matcher's vectors are taken as they are.
        batch_size: patches a batch.
        num_workers: worker processes that read.

    Returns:
        Recall and median rank in both directions. By chance recall@k is k / patches.

    Raises:
        TrainingError: fewer than two patches have both sensors.

    Example:
        >>> from deepsentinel import FusionEncoder
        >>> encoder = FusionEncoder("resnet10t", levels=(1,))
        >>> images = [{"image_s1": torch.randn(2, 16, 16), "image_s2": torch.rand(12, 16, 16)}] * 2
        >>> cross_sensor_retrieval(encoder, images).patches
        2
    """
    options = {"batch_size": batch_size, "num_workers": num_workers}
    if isinstance(model, Matcher):
        pairs, metas = _match_vectors(model, dataset, **options)
    else:
        s1, s2 = (embed(model, dataset, sensors=(s,), **options) for s in ("s1", "s2"))
        pairs, metas = np.stack([s1.vectors, s2.vectors], axis=1), s1.metas
    known = np.isfinite(pairs).all(axis=(1, 2))
    kept = pairs[known]
    if len(kept) < 2:
        raise TrainingError(
            f"{len(kept)} of {len(pairs)} patches have both sensors; a search needs two or more."
        )
    if centre and not isinstance(model, Matcher):
        kept = kept - kept.mean(axis=0)
    places = np.array(places_of(metas, len(pairs)))[known]
    return Retrieval(
        s1_to_s2=retrieval_scores(kept[:, 0], kept[:, 1], places=places),
        s2_to_s1=retrieval_scores(kept[:, 1], kept[:, 0], places=places),
        patches=len(kept),
        empty=int((~known).sum()),
    )


def retrieval_scores(
    queries: ArrayLike,
    gallery: ArrayLike,
    *,
    places: ArrayLike | None = None,
    cuts: Sequence[int] = CUTS,
) -> dict[str, float]:
    """Recall within the first k found, and the median rank of what was searched.

    Args:
        queries: (N, D); row i searches row i of the gallery.
        gallery: (N, D).
        places: (N,) ids; rows of one place are all right answers. Each its own if `None`.
        cuts: the k of recall@k.

    Returns:
        `recall@k` for each k, and `median_rank`, 1 being the best.

    Example:
        >>> retrieval_scores(np.eye(3), np.eye(3)[[0, 2, 1]], cuts=(1, 3))
        {'recall@1': 0.333..., 'recall@3': 1.0, 'median_rank': 3.0}
    """
    found = ranks(queries, gallery, places=places)
    scores = {f"recall@{k}": float((found <= k).mean()) for k in cuts}
    return scores | {"median_rank": float(np.median(found))}


def ranks(
    queries: ArrayLike, gallery: ArrayLike, *, places: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Rank of the right answer of each query by cosine; of several the best one.

    A wrong answer that is exactly as near counts as nearer, so that equal vectors find nothing.

    Args:
        queries: (N, D).
        gallery: (N, D), its row i being the answer to query i.
        places: (N,) ids; rows of one place are all right answers.

    Returns:
        (N,) from 1.

    Raises:
        ShapeError: shapes that do not fit each other.

    Example:
        >>> ranks(np.eye(2), np.ones((2, 2))).tolist()
        [2, 2]
    """
    q, g = (np.asarray(x, dtype=np.float64) for x in (queries, gallery))
    ids = np.arange(len(q)) if places is None else np.asarray(places)
    if q.ndim != 2 or q.shape != g.shape or ids.shape != (len(q),):
        raise ShapeError(
            f"queries of shape {q.shape}, gallery of {g.shape} and places of {ids.shape}; two of "
            "(N, D) and one of (N,) are expected."
        )
    q, g = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (q, g))
    parts = []
    for first in range(0, len(q), _ROWS):
        cosine = q[first : first + _ROWS] @ g.T
        right = ids[first : first + _ROWS, None] == ids
        best = np.where(right, cosine, -np.inf).max(axis=1, keepdims=True)
        # Equal vectors give cosines that differ in the last digit.
        parts.append(1 + (~right & (cosine >= best - 1e-9)).sum(axis=1))
    return np.concatenate(parts)


def _match_vectors(
    model: Matcher, dataset: Samples, *, batch_size: int, num_workers: int
) -> tuple[NDArray[np.float64], tuple[PatchMeta, ...]]:
    vectors: list[Tensor] = []
    metas: list[PatchMeta] = []
    with evaluating(model) as device:
        for batch in in_order(dataset, batch_size=batch_size, num_workers=num_workers):
            vectors.append(model.logits(to_device(batch, device)).double().cpu())
            metas += batch.get("meta", [])
    return torch.cat(vectors).numpy(), tuple(metas)
