"""`Pretrained`: what every encoder can do with its weights - save, open, publish, export."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import torch
from torch import nn

from deepsentinel.bands import Sensor
from deepsentinel.encoders.card import Card
from deepsentinel.encoders.config import (
    CONFIG_FILE,
    KINDS,
    WEIGHTS_FILE,
    read_encoder,
    write_config,
)
from deepsentinel.encoders.door import Check, Empty
from deepsentinel.encoders.export import Exportable, Format, export_graph
from deepsentinel.encoders.hub import Access, fetch_folder, parse_repository, publish
from deepsentinel.encoders.measure import macs_per_px
from deepsentinel.encoders.weights import load_strictly, read_weights, write_weights
from deepsentinel.errors import WeightsError, nearest
from deepsentinel.features import Features
from deepsentinel.sample import Batch

README_FILE = "README.md"


class Pretrained(nn.Module, ABC):
    """Base of the library's encoders; a subclass is listed in `encoders.config.KINDS`.

    `deepsentinel.Encoder` is its public name: what `load_encoder` gives and `FusionEncoder` builds.
    `Encoder.from_pretrained` opens any of them from a folder or repository, a subclass only its own.
    What heads and evaluation ask of encoders of other libraries is less: `features.Encoder`.

    Attributes:
        config: constructor arguments as plain values, without `check`, `empty` and `card`.
        check: when units are checked.
        empty: what a patch without an observed value gives.
    """

    config: dict[str, Any]
    check: Check
    empty: Empty
    _card: Card

    LATER: ClassVar[frozenset[str]] = frozenset()
    """Options that older configs lack; their defaults leave an encoder as it was."""

    @property
    @abstractmethod
    def card(self) -> Card:
        """Facts of the encoder; what the architecture tells is read from it, never stated twice."""

    @property
    @abstractmethod
    def sensors(self) -> tuple[Sensor, ...]:
        """Sensors that the encoder can read."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """D of `Features.embedding`."""

    @property
    @abstractmethod
    def out_channels(self) -> tuple[int, ...]:
        """C_i of `Features.maps`."""

    @property
    @abstractmethod
    def strides(self) -> tuple[int, ...]:
        """s_i of `Features.maps`."""

    @abstractmethod
    def encode(self, batch: Batch) -> Features:
        """Features of a batch as `deepsentinel.collate` makes it."""

    @property
    @abstractmethod
    def bands(self) -> dict[Sensor, tuple[str, ...]]:
        """Bands that the encoder uses, by sensor, in its own order."""

    def exportable(self) -> Exportable:
        """A module of tensors only, for `torch.export`; month and location as where not given."""
        return Exportable(self)

    @property
    def export_min(self) -> int:
        """Pixels a side from which a graph of any size works."""
        return 33

    def export(
        self,
        path: str | Path,
        *,
        format: Format = "onnx",  # noqa: A002 - torch's and numpy's word too
        size: tuple[int, int] | None = None,
    ) -> Path:
        """Write the encoder as one graph for other runtimes, normalisation and NaN handling inside.

        Its inputs are `s1` and `s2`, float32 (B, bands, H, W) in dB and reflectance, with the bands
        of `encoder.bands` in that order; NaN is not observed and an absent sensor is all NaN. Its
        outputs are `embedding` and `map_0`, `map_1`, ..., fine to coarse; a patch that was observed
        nowhere gives NaN. Month and place are as where they are not given.

        Args:
            path: of the file, such as `encoder.onnx`, or `encoder.pt2` for `torch.export.load`.
            format: `"onnx"` (needs the extra `onnx`) or `"torch"`.
            size: (H, W) of a graph of one size, for backbones that cannot be traced with free ones
                (Swin) and patches smaller than `export_min`; any size from there up if `None`. The
                number of patches is always free.

        Returns:
            The path.

        Raises:
            ExportError: the network cannot be traced with free height and width.
            MissingExtraError: the packages for ONNX are not installed.
        """
        return export_graph(
            self.exportable(),
            path,
            form=format,
            bands=self.bands,
            least=self.export_min,
            size=size,
            facts={"name": self.card.name, "sha256": self.card.sha256},
        )

    def save_pretrained(
        self, folder: str | Path, *, card: Card | None = None, dtype: torch.dtype = torch.float32
    ) -> Path:
        """Write `config.json` and `model.safetensors`.

        Args:
            folder: made if need be.
            card: facts to store; those that the architecture tells, its measured cost and the
                sha256 of the weights are filled in. The encoder's own card by default.
            dtype: of the stored parameters; `torch.float16` halves the file. They are loaded as
                float32. Statistics and other buffers stay as they are.

        Returns:
            The folder; `deepsentinel.load_encoder` opens it.

        Raises:
            WeightsError: a parameter is not finite in `dtype`.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        cost = macs_per_px(self, self.bands)
        sha256 = write_weights(place, self, dtype)
        self._card = replace(card or self.card, macs_per_px=cost, sha256=sha256)
        write_config(place, self.config, self.card, kind=type(self).__name__)
        return place

    def push_to_hub(
        self,
        name: str,
        *,
        card: Card | None = None,
        private: bool | None = None,
        revision: str | None = None,
        message: str = "Publish an encoder",
        token: str | bool | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> str:
        """Publish weights, config and a model card made from them on the Hugging Face Hub.

        Args:
            name: `<user>/<repo>`, made if need be.
            card: facts to publish, as `save_pretrained` takes them. Name licence, data and limits.
            private: of a new repository; the account's default if `None`.
            revision: branch to publish on, made if need be; `main` if `None`.
            message: of the commit.
            token: instead of `HF_TOKEN` or the stored login.
            dtype: of the stored parameters.

        Returns:
            The commit: load it with `load_encoder("hf://<user>/<repo>@<commit>")`.

        Raises:
            HubError: the Hub cannot be reached or does not allow it.
        """
        with TemporaryDirectory() as folder:
            place = Path(folder)
            self.save_pretrained(place, card=card, dtype=dtype)
            text = replace(self.card, repository=name).to_markdown()
            (place / README_FILE).write_text(text, encoding="utf-8")
            return publish(
                place, name, private=private, revision=revision, message=message, token=token
            )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        sha256: str | None = None,
        check: Check = "first",
        empty: Empty = "error",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """The encoder that `save_pretrained` or `push_to_hub` wrote, in eval mode and float32.

        Args:
            folder: with `config.json` and `model.safetensors`; or `<user>/<repo>` on the Hub.
            sha256: that the weights must have; what the card says by default.
            check: when units are checked, as in the constructor.
            empty: what a patch without an observed value gives, as in the constructor.
            revision: commit, branch or tag on the Hub; `main` if `None`.
            cache_dir: instead of the Hub's cache in `HF_HOME`.
            local_files_only: take what is in the cache and ask nobody.
            token: instead of `HF_TOKEN` or the stored login.

        Raises:
            EncoderNotFoundError: there is no such folder.
            HubError: the Hub cannot be reached, does not have it or does not allow it.
            WeightsError: a file is absent or damaged, weights and config disagree, or it is an
                encoder of another class.
        """
        access = Access(cache_dir=cache_dir, local_files_only=local_files_only, token=token)
        place, found = located(folder, revision, access)
        encoder = open_encoder(place, sha256=sha256, check=check, empty=empty, **found)
        if not isinstance(encoder, cls):
            raise WeightsError(
                f"{str(folder)!r} holds a {type(encoder).__name__}, not a {cls.__name__}. Open it "
                "with deepsentinel.load_encoder."
            )
        return encoder

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        seed: int = 0,
        check: Check = "first",
        empty: Empty = "error",
        card: Card | None = None,
    ) -> Self:
        """A new encoder with random weights from another's `config`.

        Args:
            config: `encoder.config`, as stored in `config.json`.
            seed: of the weights; the global random state is left as it was.
            check: as in the constructor.
            empty: as in the constructor.
            card: as in the constructor.

        Raises:
            WeightsError: `config` holds something else than the constructor takes.
        """
        known = set(inspect.signature(cls).parameters) - {"check", "empty", "card", "pretrained"}
        lacking, unknown = known - set(config) - cls.LATER, set(config) - known
        if lacking or unknown:
            raise WeightsError(
                f"the config lacks {sorted(lacking)} and holds unexpected {sorted(unknown)}. It must "
                "come from save_pretrained of this version or an older one: update deepsentinel, "
                "or save the encoder anew."
            )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return cls(**config, check=check, empty=empty, card=card)

    def reinitialised(self, seed: int) -> Self:
        """The same architecture and statistics with random weights: the control of a score.

        Example:
            >>> from deepsentinel import FusionEncoder
            >>> encoder = FusionEncoder("resnet10t")
            >>> twin = encoder.reinitialised(seed=1)
            >>> twin.config == encoder.config
            True
        """
        twin = self.from_config(self.config, seed=seed, check=self.check, empty=self.empty)
        like = next(self.parameters())
        return twin.to(like.device, like.dtype).train(self.training)


def located(name: str | Path, revision: str | None, access: Access) -> tuple[Path, dict[str, str]]:
    """Folder of saved files, downloaded if need be, and where on the Hub it was, for its card."""
    place = None if isinstance(name, Path) or Path(name).is_dir() else parse_repository(name)
    if place is None:
        return Path(name), {}
    place = parse_repository(str(name), revision)
    assert place is not None  # noqa: S101 - parsed a line above
    folder = fetch_folder(place, (CONFIG_FILE, WEIGHTS_FILE), access)
    return folder, {"repository": place.name, "revision": folder.name}


def open_encoder(
    folder: Path,
    *,
    sha256: str | None = None,
    check: Check = "first",
    empty: Empty = "error",
    repository: str | None = None,
    revision: str | None = None,
) -> Pretrained:
    """The encoder in a folder, of whichever class.

    Raises:
        EncoderNotFoundError: there is no such folder.
        WeightsError: a file is absent or damaged, or weights and config disagree.
    """
    kind, arguments, card = read_encoder(folder)
    tensors = read_weights(folder, sha256 or card.sha256)
    if repository is not None:
        card = replace(card, repository=repository, revision=revision or "")
    encoder = encoder_class(kind).from_config(arguments, check=check, empty=empty, card=card)
    load_strictly(encoder, tensors, origin=repr(str(folder)))
    return encoder.eval()


def encoder_class(kind: str) -> type[Pretrained]:
    """The class of that name.

    Raises:
        WeightsError: no class of the library has it.

    Example:
        >>> encoder_class("FusionEncoder").__name__
        'FusionEncoder'
    """
    if kind not in KINDS:
        raise WeightsError(
            f"the config is of a {kind!r}, which this version of deepsentinel does not know. "
            f"{nearest(kind, KINDS)} Update deepsentinel."
        )
    found: type[Pretrained] = getattr(import_module(KINDS[kind]), kind)
    return found


Encoder = Pretrained
"""The public name."""
