"""Every error and warning class of the library.

Each message says what was asked, what was found and what to do. The classes derive from the
built-in error that a caller would expect, so `except ValueError` keeps working.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class DeepSentinelError(Exception):
    """Base of every error that the library raises on purpose."""


class BandError(DeepSentinelError, ValueError):
    """An unknown, repeated or unusable band, or a channel count that fits no stated band list."""


class UnitsError(DeepSentinelError, ValueError):
    """Values that cannot be what they claim to be: digital numbers as reflectance, power as dB."""


class ShapeError(DeepSentinelError, ValueError):
    """A tensor whose rank, size or pairing with another tensor is not accepted."""


class NothingObservedError(DeepSentinelError, ValueError):
    """A patch without a single finite value in any sensor."""


class UnknownNameError(DeepSentinelError, LookupError):
    """A name that is not in the list it was looked up in; the message lists the nearest ones."""

    __str__ = Exception.__str__


class SampleError(DeepSentinelError, ValueError):
    """A sample or batch that lacks a key, or whose parts contradict each other."""


class CollateError(SampleError):
    """Samples that cannot be stacked into one batch by the collate function in use."""


class LabelError(DeepSentinelError, ValueError):
    """A label that does not exist, is ambiguous or lies outside its scheme."""


class StoreError(DeepSentinelError, OSError):
    """Bytes could not be read from or written to the place that a URL names."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is nothing at the place that a URL names."""


class NotAuthorisedError(StoreError, PermissionError):
    """A server refuses the request with these credentials, or without any."""


class RequesterPaysError(NotAuthorisedError):
    """The bucket bills whoever reads it, and `requester_pays` was not given or is not accepted."""


class TransientError(StoreError, TimeoutError):
    """A server or the network failed and went on failing until the retries were used up."""


class CorpusError(DeepSentinelError):
    """A corpus that cannot be opened, read or written as asked."""


class CorpusNotFoundError(CorpusError, FileNotFoundError):
    """There is no corpus at the given place."""


class CorpusExistsError(CorpusError, FileExistsError):
    """A corpus is already there and would have been changed."""


class CorruptCorpusError(CorpusError, OSError):
    """Stored bytes are missing, truncated or fail their checksum; names shard and patch."""


class SplitError(CorpusError, ValueError):
    """An unknown or empty split."""


class SelectionError(CorpusError, ValueError):
    """A choice of patches that cannot be understood, or that no patch answers to."""


class TransferDeclinedError(CorpusError):
    """A transfer that was shown what it costs and was not wanted."""


class SourceError(DeepSentinelError, ValueError):
    """A folder of source files that is not what the converter can read."""


class EncoderNotFoundError(UnknownNameError):
    """No encoder of that name or at that place."""


class BackboneError(DeepSentinelError, ValueError):
    """A backbone that is unknown, makes no feature maps or is fixed to one input size."""


class UnusedInputError(DeepSentinelError, ValueError):
    """An input, such as the month, that the encoder was given but does not know."""


class WeightsError(DeepSentinelError, ValueError):
    """Weights whose hash, keys or shapes differ from what their card or config states."""


class HubError(DeepSentinelError, OSError):
    """The Hugging Face Hub cannot be reached, does not have it, or does not allow it."""


class ConfigError(DeepSentinelError, ValueError):
    """A config file or option that is unknown, of another type, out of range, or missing."""


class CheckpointError(DeepSentinelError, ValueError):
    """A training checkpoint that does not belong to this run or cannot be trusted."""


class TrainingError(DeepSentinelError, RuntimeError):
    """Training cannot go on: a loss that is not finite, a target that does not fit the model."""


class ReportError(DeepSentinelError, ValueError):
    """A report that cannot be built, written or read."""


class ExportError(DeepSentinelError, RuntimeError):
    """A network that cannot be written as a graph with the sizes that were asked for."""


class MissingExtraError(DeepSentinelError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


class UnitsWarning(UserWarning):
    """Values that are possible but suggest another unit, such as an offset left in."""


class TrainingWarning(UserWarning):
    """A training that can go on but may teach less, or be scored better, than it seems."""


class LeakWarning(TrainingWarning):
    """Patches that judge a model lie where it was trained."""


class CacheWarning(UserWarning):
    """The cache on the local disk cannot be used; bytes are read from their origin."""


def nearest(name: str, known: Iterable[str], *, most: int | None = None) -> str:
    """Sentence for an error message: the closest known names, then all of them, or the first `most`.

    Example:
        >>> nearest("tset", ["train", "val", "test"])
        "Did you mean 'test'? Known: train val test."
    """
    names = list(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(n) for n in close)}? " if close else ""
    listed = " ".join(names[:most]) if names else "(none)"
    end = "." if most is None or len(names) <= most else " ..."
    return f"{hint}Known: {listed}{end}"
