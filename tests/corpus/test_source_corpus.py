"""A source read as it is gives what converting it stores."""

import numpy as np
import pytest

from deepsentinel.corpus.convert import convert
from deepsentinel.corpus.opening import open_corpus
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.source_corpus import SourceCorpus
from deepsentinel.errors import CorpusNotFoundError, SourceError


@pytest.mark.parametrize("place", ["terramesh", "bigearthnet/pairs", "ssl4eo"])
def test_it_equals_the_corpus(shared_data, tmp_path, place):
    convert(shared_data / place, tmp_path / "corpus")
    stored, direct = Corpus(tmp_path / "corpus"), SourceCorpus(shared_data / place)
    assert (len(direct), direct.info.bands) == (len(stored), stored.info.bands)
    assert direct.info.splits == stored.info.splits
    for i in range(len(stored)):
        assert direct.record(i) == stored.record(i)
        ours, theirs = direct.read_physical(i), stored.read_physical(i)
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values)
    columns = ["id", "geometry", "boa_offset_source", "date_s1"]
    assert direct.index.select(columns).equals(stored.index.select(columns))


def test_what_is_left_out_is_listed(shared_data):
    direct = SourceCorpus(shared_data / "terramesh")
    assert [s.name for s in direct.skipped] == ["433D_629L_3_1"]
    assert not direct.unfinished
    assert "terramesh" in repr(direct)


def test_only_the_original_layout_opens_unasked(shared_data, tmp_path):
    with pytest.raises(CorpusNotFoundError):
        open_corpus(shared_data / "terramesh")
    with pytest.raises(SourceError, match="no kind"):
        SourceCorpus(tmp_path)
