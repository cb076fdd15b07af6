"""Scores of quantities, from torchmetrics."""

from typing import Any, Final

import torch
from torch import Tensor

from deepsentinel.errors import TrainingError
from deepsentinel.sample import Batch

POINTS: Final = 1000
"""Values of a quantity and batch that are kept for a picture, evenly spread."""


class RegressionScores:
    """`r2`, `rmse`, `mae` and `bias`, each the mean over the quantities of which something is known.

    Example:
        >>> from deepsentinel.features import Regression
        >>> scores = RegressionScores(("evi",))
        >>> target = torch.tensor([[0.0], [1.0], [torch.nan]])
        >>> scores.update(Regression(torch.tensor([[0.5], [1.0], [9.0]])), {"target": target})
        >>> scores.compute()
        {'r2': 0.5, 'rmse': 0.353..., 'mae': 0.25, 'bias': 0.25}
    """

    headline = "r2"

    def __init__(self, names: tuple[str, ...]) -> None:
        from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, R2Score

        self.names = names
        self._counts = [0] * len(names)
        # In float32 the sums of squares of elevations would drown their variance.
        self._metrics: dict[str, list[Any]] = {
            key: [kind(sync_on_compute=False).set_dtype(torch.float64) for _ in names]
            for key, kind in (
                ("r2", R2Score),
                ("mse", MeanSquaredError),
                ("mae", MeanAbsoluteError),
                ("bias", MeanMetric),
            )
        }
        self._points: list[list[Tensor]] = [[] for _ in names]
        self._limits: list[tuple[float, float]] = [(float("inf"), float("-inf"))] * len(names)

    def update(self, prediction: Any, batch: Batch) -> None:
        """Add a batch with its `target`; NaN counts nothing."""
        values, target = prediction.values.double().cpu(), batch["target"].double().cpu()
        for k in range(len(self.names)):
            known = torch.isfinite(target[:, k])
            self._add(k, values[:, k][known], target[:, k][known])

    def _add(self, k: int, values: Tensor, target: Tensor) -> None:
        if not target.numel():
            return
        self._counts[k] += target.numel()
        step = -(-target.numel() // POINTS)
        self._points[k].append(torch.stack([target[::step], values[::step]]))
        low, high = self._limits[k]
        self._limits[k] = (min(low, float(target.min())), max(high, float(target.max())))
        for key in ("r2", "mse", "mae"):
            self._metrics[key][k].update(values, target)
        self._metrics["bias"][k].update(values - target)

    def compute(self) -> dict[str, float]:
        """Scores by name.

        Raises:
            TrainingError: nothing is known, or what is known never varies, so that R2 has no
                meaning.
        """
        if not any(self._counts):
            raise TrainingError(
                "no target is known in the data to be scored: every value is NaN. Look at the "
                "split with `deepsentinel stats`, or take other labels=...."
            )
        r2 = [v for v in self.per_class().values() if v is not None]
        if not r2:
            raise TrainingError(
                "what is known of the target never varies in the data to be scored "
                f"({self._limits}), so there is nothing to explain. Score more patches."
            )
        return {
            "r2": sum(r2) / len(r2),
            "rmse": self._mean("mse", power=0.5),
            "mae": self._mean("mae"),
            "bias": self._mean("bias"),
        }

    def _mean(self, key: str, *, power: float = 1.0) -> float:
        """Over the quantities of which something is known."""
        pairs = zip(self._metrics[key], self._counts, strict=True)
        found: list[float] = [float(m.compute()) ** power for m, count in pairs if count]
        return sum(found) / len(found)

    def per_class(self) -> dict[str, float | None]:
        """R2 of each quantity; `None` where nothing is known or nothing varies."""
        varied = [low < high for low, high in self._limits]
        return {
            name: float(self._metrics["r2"][k].compute()) if varied[k] else None
            for k, name in enumerate(self.names)
        }

    def points(self) -> dict[str, Tensor]:
        """Some targets and their predictions, (2, N) by quantity, for a picture."""
        return {n: torch.cat(p, 1) for n, p in zip(self.names, self._points, strict=True) if p}
