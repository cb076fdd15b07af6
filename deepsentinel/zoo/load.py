"""`load_encoder` and `list_encoders`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepsentinel.encoders.card import Card, Source
from deepsentinel.encoders.config import WEIGHTS_FILE, read_config
from deepsentinel.encoders.hub import Access, damage, fetch, parse_repository
from deepsentinel.errors import EncoderNotFoundError, UnknownNameError, WeightsError, nearest
from deepsentinel.zoo.rows import ROWS, Row, Shipped

if TYPE_CHECKING:
    from deepsentinel.encoders.door import Check, Empty
    from deepsentinel.encoders.pretrained import Pretrained

File = str | Path


def load_encoder(
    name: str | Path = "deepsentinel-nano",
    *,
    weights: File | Mapping[str, File] | None = None,
    patch_size: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    fusion: str | None = None,
    check: "Check" = "first",
    empty: "Empty" = "error",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> "Pretrained":
    """A pretrained encoder, in eval mode and float32.

    The weights must have the sha256 of their row, or of their card, and fit the architecture
    exactly; nothing is ever loaded in part or replaced by random weights. What is not in the
    wheel comes from the Hugging Face Hub and stays in its cache; files are verified each time.

    Args:
        name: a row of `list_encoders()`; a folder that `save_pretrained` wrote; or such a folder
            on the Hub, `<user>/<repo>` or `hf://<user>/<repo>@<revision>`.
        weights: the published file of a row that you have already, or one for each of two
            towers, `{"s1": FILE, "s2": FILE}`. It must be the file that the row pins.
        patch_size: of Galileo's tokens in pixels, 1 to 8; 8 if `None`.
        window: of Galileo, pixels a side that are encoded at once; whole patches if `None`.
        stride: of Presto, pixels a side that share one vector; 1 if `None`.
        fusion: of two towers, how their embeddings are joined: `"mean"` or `"concat"`.
        check: when units are checked: `"first"` (every call on CPU, the first per device
            elsewhere), `"always"` or `"never"`.
        empty: a patch that was observed nowhere is an `"error"` or a `"nan"` embedding.
        revision: commit, branch or tag of a repository that you name yourself; rows are pinned.
        cache_dir: instead of the Hub's cache in `HF_HOME`.
        local_files_only: take what is in the cache and ask nobody.
        token: for private repositories, instead of `HF_TOKEN` or the stored login.

    Raises:
        EncoderNotFoundError: no encoder of that name, and no such folder.
        UnknownNameError: an option that the row does not know.
        HubError: the Hub cannot be reached, does not have it or does not allow it.
        WeightsError: a file is absent or damaged, or weights and config disagree.

    Example:
        >>> import tempfile
        >>> from deepsentinel import FusionEncoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = FusionEncoder("mobilenetv4_conv_small_050").save_pretrained(folder)
        ...     load_encoder(folder).embed_dim
        480
    """
    row = _row(name, ROWS)
    access = Access(cache_dir=cache_dir, local_files_only=local_files_only, token=token)
    given = {"patch_size": patch_size, "window": window, "stride": stride, "fusion": fusion}
    given = {k: v for k, v in given.items() if v is not None}
    if isinstance(row, Row):
        _refuse(name, {"revision": revision}, "its weights are pinned to one file")
        options = _options(row, given)
        files = _local(row, weights) if weights is not None else _fetched(row, access)
        return row.build(files, options, check=check, empty=empty)
    _refuse(name, given, "its config says all about it")
    _refuse(name, {"weights": weights}, "only rows with published files take them")
    # Only here: listing encoders needs no torch.
    from deepsentinel.encoders.pretrained import Pretrained, open_encoder

    if row is not None:
        _refuse(name, {"revision": revision}, "it ships with the library")
        return open_encoder(_shipped(row), sha256=row.sha256, check=check, empty=empty)
    return Pretrained.from_pretrained(
        name,
        check=check,
        empty=empty,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
    )


def list_encoders() -> list[Card]:
    """Cards of the encoders that `load_encoder` knows by name; imports no torch.

    Raises:
        WeightsError: the card of a row is absent or damaged.
    """
    return [row.card if isinstance(row, Row) else read_config(_shipped(row))[1] for row in ROWS]


def download_encoder(
    name: str,
    *,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
) -> dict[str, Path]:
    """Put a row's files into the Hub's cache, verified, for work without a network.

    Returns:
        Where they are; of a shipped encoder its folder.

    Raises:
        EncoderNotFoundError: no row of that name.
        HubError: the Hub cannot be reached, does not have it or does not allow it.
        WeightsError: a file differs from what its row states, freshly downloaded too.
    """
    row = next((row for row in ROWS if row.name == name), None)
    if row is None:
        raise _unknown(name, ROWS)
    if isinstance(row, Shipped):
        return {"both": _verified(row)}
    return _fetched(row, Access(cache_dir=cache_dir, token=token))


def _fetched(row: Row, access: Access) -> dict[str, Path]:
    return {key: fetch(source, access) for key, source in row.card.sources.items()}


def _local(row: Row, weights: File | Mapping[str, File]) -> dict[str, Path]:
    """The caller's own files, which must be those that the row pins."""
    sources = row.card.sources
    given = dict(weights) if isinstance(weights, Mapping) else dict.fromkeys(["both"], weights)
    if set(given) != set(sources):
        raise WeightsError(
            f"weights= names {sorted(given)}, but {row.name} has files for {sorted(sources)}. Pass "
            f"weights={dict.fromkeys(sources, 'FILE') if len(sources) > 1 else 'FILE'}."
        )
    files = {key: Path(file) for key, file in given.items()}
    for key, file in files.items():
        if not file.is_file():
            raise WeightsError(f"no weights at {str(file)!r}; pass the path of the published file.")
        reason = damage(file, sources[key])
        if reason:
            raise WeightsError(
                f"{str(file)!r} {reason}. It is not the file that {row.name} pins: "
                f"{sources[key].path} of hf://{sources[key].repository}. Get that one, or leave "
                "weights out to download it."
            )
    return files


def _options(row: Row, given: Mapping[str, Any]) -> dict[str, Any]:
    for option in given:
        if option not in row.options:
            raise UnknownNameError(
                f"{row.name} has no option {option!r}. {nearest(option, row.options)} Leave it out."
            )
    return {**row.options, **given}


def _refuse(name: str | Path, given: Mapping[str, Any], reason: str) -> None:
    for option, value in given.items():
        if value is not None:
            raise UnknownNameError(
                f"{option} was given, but {str(name)!r} does not take it: {reason}. Leave it out."
            )


def _shipped(row: Shipped) -> Path:
    if not row.folder.is_dir():
        raise WeightsError(
            f"the weights of {row.name!r} are not in this installation ({str(row.folder)!r} is "
            "absent). Reinstall deepsentinel from its wheel or a whole checkout."
        )
    return row.folder


def _verified(row: Shipped) -> Path:
    weights = _shipped(row) / WEIGHTS_FILE
    pin = Source(repository="", path=WEIGHTS_FILE, sha256=row.sha256)
    reason = damage(weights, pin) if weights.is_file() else "is absent"
    if reason:
        raise WeightsError(f"{str(weights)!r} {reason}. Reinstall deepsentinel.")
    return row.folder


def _row(name: str | Path, rows: Sequence[Shipped | Row]) -> Shipped | Row | None:
    """The row of that name; `None` where the name is a folder or a repository."""
    found = next((row for row in rows if row.name == name), None)
    if found is not None or isinstance(name, Path) or Path(name).is_dir():
        return found
    if parse_repository(name) is not None:
        return None
    if os.sep in name:
        raise EncoderNotFoundError(
            f"no encoder at {name!r}: there is no such folder. Give a folder that save_pretrained "
            "wrote, <user>/<repo> on the Hub, or a name from deepsentinel.list_encoders()."
        )
    raise _unknown(name, rows)


def _unknown(name: str, rows: Sequence[Shipped | Row]) -> EncoderNotFoundError:
    return EncoderNotFoundError(
        f"no encoder {name!r}. {nearest(name, [row.name for row in rows])} A folder that "
        "save_pretrained wrote and <user>/<repo> on the Hub are accepted too."
    )
