"""Random exact moves of patches: flips, right angles, crops. Nothing is resampled."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deepsentinel.datasets import geometry
from deepsentinel.datasets.randomness import (
    RandomTransform,
    each_patch,
    images,
    patches,
    share,
)
from deepsentinel.errors import ShapeError
from deepsentinel.sample import Batch, Sample


@dataclass(frozen=True)
class RandomFlip(RandomTransform):
    """Mirror left to right and top to bottom, each with its probability.

    Example:
        >>> import numpy as np
        >>> sample = {"mask": torch.tensor([[1, 2]])}
        >>> RandomFlip(horizontal=1, vertical=0)(sample, np.random.default_rng(0))["mask"].tolist()
        [[2, 1]]
    """

    horizontal: float = 0.5
    vertical: float = 0.5

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch, some of it mirrored."""
        draws = share(patches(batch), generator, 2).tolist()

        def move(place: int, sample: Sample) -> Sample:
            if draws[place][0] < self.horizontal:
                sample = geometry.hflip(sample)
            return geometry.vflip(sample) if draws[place][1] < self.vertical else sample

        return each_patch(batch, move)


@dataclass(frozen=True)
class RandomRot90(RandomTransform):
    """Turn by 0, 1, 2 or 3 right angles, each as likely.

    A patch that is not square turns by 0 or 2, so that it keeps its size and stacks with others.
    SAR layover and shadow have a direction, which turning hides from a model: leave it out where
    that matters.

    Example:
        >>> import numpy as np
        >>> sample = {"mask": torch.zeros(4, 2)}
        >>> RandomRot90()(sample, np.random.default_rng(0))["mask"].shape
        torch.Size([4, 2])
    """

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch, each patch turned its own way."""
        height, width = geometry.size(batch)
        quarters = (4 * share(patches(batch), generator)).long().clamp_max(3)
        turns = (quarters if height == width else quarters // 2 * 2).tolist()
        return each_patch(batch, lambda i, sample: geometry.rot90(sample, turns[i]))


@dataclass(frozen=True)
class RandomCrop(RandomTransform):
    """A square window of `size` pixels somewhere in the patch.

    Where nothing was observed in the window that was drawn, but elsewhere in the patch, another
    window is drawn around an observed pixel.

    Example:
        >>> import numpy as np
        >>> sample = {"mask": torch.zeros(8, 8)}
        >>> RandomCrop(4)(sample, np.random.default_rng(0))["mask"].shape
        torch.Size([4, 4])
    """

    size: int

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The windows; patches smaller than them are a `ShapeError`."""
        rows, columns = at_least(batch, self.size)
        room = torch.tensor([rows, columns], device=generator.device) - self.size + 1
        corners = (share(patches(batch), generator, 2) * room).long().minimum(room - 1)
        if images(batch):
            corners = self._onto_something(batch, corners, generator)
        places = corners.tolist()

        def move(place: int, sample: Sample) -> Sample:
            top, left = places[place]
            return geometry.crop(sample, top, left, self.size, self.size)

        return each_patch(batch, move)

    def _onto_something(self, batch: Batch, corners: Tensor, generator: torch.Generator) -> Tensor:
        """The corners (B, 2), those of windows without an observed pixel drawn again around one."""
        height, width = geometry.size(batch)
        for i, (top, left) in enumerate(corners.tolist()):
            patch = [image[i] for image in images(batch).values()]
            rows, columns = slice(top, top + self.size), slice(left, left + self.size)
            if any(_observed(image[:, rows, columns]) for image in patch):
                continue
            seen = torch.stack([image.isfinite().any(0) for image in patch]).any(0)
            if not seen.any():
                continue
            weights = seen.to(generator.device).flatten().float()
            pixel = int(torch.multinomial(weights, 1, generator=generator))
            shift = (share(2, generator) * self.size).long().clamp_max(self.size - 1)
            around = torch.tensor(divmod(pixel, width), device=generator.device) - shift
            limit = torch.tensor([height, width], device=generator.device) - self.size
            corners[i] = around.clamp_min(0).minimum(limit)
        return corners


def _observed(image: Tensor) -> bool:
    """Whether anything in an image (bands, H, W) is; its first row mostly tells."""
    return bool(image[:, :1].isfinite().any()) or bool(image.isfinite().any())


@dataclass(frozen=True)
class CenterCrop:
    """The square window of `size` pixels in the middle of the sample.

    Example:
        >>> CenterCrop(2)({"mask": torch.arange(16).reshape(4, 4)})["mask"].tolist()
        [[5, 6], [9, 10]]
    """

    size: int

    def __call__(self, sample: Sample) -> Sample:
        """The window; a sample smaller than it is a `ShapeError`."""
        rows, columns = at_least(sample, self.size)
        top, left = (rows - self.size) // 2, (columns - self.size) // 2
        return geometry.crop(sample, top, left, self.size, self.size)


def at_least(sample: Sample | Batch, wanted: int) -> tuple[int, int]:
    """Rows and columns, which must both reach `wanted`.

    Raises:
        ShapeError: they do not, or `wanted` is no size.
    """
    rows, columns = geometry.size(sample)
    if not 1 <= wanted <= min(rows, columns):
        raise ShapeError(
            f"a crop of {wanted} px was asked from a sample of {rows}x{columns} px. "
            f"Ask for at most {min(rows, columns)} px, and at least 1."
        )
    return rows, columns
