"""Errors: one base, the built-in error that callers expect, and nearest names."""

import inspect
import pickle

import pytest

from deepsentinel import errors
from deepsentinel.errors import DeepSentinelError, nearest

CLASSES = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, DeepSentinelError)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_messages_are_shown_as_written_and_travel_between_processes(kind):
    """Also those that derive from `KeyError` or `OSError`, which like to add quotes or numbers."""
    error = kind("what was asked, what to do")
    assert str(error) == "what was asked, what to do"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own bytes)
    assert type(again) is kind
    assert str(again) == str(error)
    assert kind.__doc__


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.BandError, ValueError),
        (errors.UnitsError, ValueError),
        (errors.ShapeError, ValueError),
        (errors.UnknownNameError, LookupError),
        (errors.EncoderNotFoundError, LookupError),
        (errors.CorpusNotFoundError, FileNotFoundError),
        (errors.CorpusExistsError, FileExistsError),
        (errors.CorruptCorpusError, OSError),
        (errors.StoreError, OSError),
        (errors.MissingExtraError, ImportError),
        (errors.CollateError, errors.SampleError),
        (errors.SplitError, errors.CorpusError),
    ],
)
def test_the_built_in_error_catches_it(kind, builtin):
    with pytest.raises(builtin):
        raise kind("message")


def test_warnings_are_no_errors():
    assert issubclass(errors.UnitsWarning, UserWarning)
    assert not issubclass(errors.UnitsWarning, DeepSentinelError)


def test_nearest_puts_likely_names_first():
    assert nearest("Test", ["train", "val", "test"]).startswith("Did you mean 'test'?")
    assert nearest("xyz", ["train", "val"]) == "Known: train val."
    assert nearest("xyz", []) == "Known: (none)."
    assert nearest("c3", ["c1", "c2", "x"], most=1).endswith("? Known: c1 ...")
    assert nearest("xyz", ["a", "b"], most=2) == "Known: a b."
    assert nearest("tran", (n for n in ("train", "val"))).endswith("Known: train val.")
