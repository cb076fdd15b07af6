"""Errors of this library that are also torchgeo's, so that code written for either catches them."""

from torchgeo.datasets import DatasetNotFoundError, RGBBandsMissingError

from deepsentinel.errors import BandError, CorpusNotFoundError


class CorpusDatasetNotFoundError(CorpusNotFoundError, DatasetNotFoundError):  # type: ignore[misc]
    """There is no corpus at the root of a dataset.

    Example:
        >>> isinstance(CorpusDatasetNotFoundError("no corpus"), DatasetNotFoundError)
        True
    """

    def __init__(self, message: str) -> None:
        FileNotFoundError.__init__(self, message)  # torchgeo's takes a dataset, not a message


class MissingRGBBandsError(BandError, RGBBandsMissingError):  # type: ignore[misc]
    """A patch was read without the bands that a true-colour picture needs.

    Example:
        >>> str(MissingRGBBandsError("no B04"))
        'no B04'
    """

    def __init__(self, message: str) -> None:
        ValueError.__init__(self, message)  # torchgeo's takes no message
