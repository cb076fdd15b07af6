import json
import math
from dataclasses import replace

import numpy as np
import pytest

from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.stats import corpus_stats
from deepsentinel.corpus.write import CorpusWriter
from deepsentinel.errors import SplitError


@pytest.mark.parametrize("split", [None, "val"])
def test_numpy_agrees(tiny_corpus, split):
    corpus = Corpus(tiny_corpus)
    stats = corpus_stats(corpus, split=split)
    assert stats.patches == len(corpus.rows(split))
    assert [(b.sensor, b.band) for b in stats.bands] == [
        (s, b) for s in ("s1", "s2") for b in corpus.info.bands[s]
    ]
    for band in stats.bands:
        read = [corpus.read_physical(i, sensors=(band.sensor,)) for i in corpus.rows(split)]
        position = corpus.info.bands[band.sensor].index(band.band)
        values = np.stack([r[band.sensor][position] for r in read if r]).astype(np.float64)
        seen = values[np.isfinite(values)]
        assert band.patches == len(values)
        assert band.nan_share == pytest.approx(np.isnan(values).mean())
        wanted = [seen.mean(), seen.std(), *np.percentile(seen, [0, 1, 50, 99, 100])]
        got = [band.mean, band.std, band.minimum, band.p1, band.p50, band.p99, band.maximum]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


def test_a_draw_is_seeded(tiny_corpus):
    corpus = Corpus(tiny_corpus)
    first = corpus_stats(corpus, max_patches=3, seed=1)
    assert first.patches == 3
    assert first == corpus_stats(corpus, max_patches=3, seed=1)
    assert first != corpus_stats(corpus, max_patches=3, seed=2)
    assert corpus_stats(corpus, max_patches=99).patches == 12


@pytest.fixture
def bright_and_dark(tmp_path, info):
    """Two patches, one of which carries an offset of 0.1; s1 was never observed."""
    with CorpusWriter(tmp_path, replace(info, labels=(), extras=())) as writer:
        for k, reflectance in enumerate((0.05, 0.15)):
            codes = np.full((4, 16, 16), 1000 + reflectance * 10000, np.uint16)
            nothing = np.full((2, 16, 16), -32768, np.int16)
            writer.add(PatchRecord(id=str(k)), PatchPixels(s1=nothing, s2=codes))
    return Corpus(tmp_path)


def test_patches_that_look_offset_are_counted(bright_and_dark):
    stats = corpus_stats(bright_and_dark)
    assert stats.offset_suspects == 0.5
    assert stats.bands[2].mean == pytest.approx(0.1)
    assert stats.bands[2].std == pytest.approx(0.05)


def test_a_band_that_was_never_observed(bright_and_dark):
    stats = corpus_stats(bright_and_dark)
    assert stats.bands[0].nan_share == 1
    assert math.isnan(stats.bands[0].mean)
    value = json.loads(json.dumps(stats.to_json(), allow_nan=False))
    assert value["bands"][0]["mean"] is None
    assert value["bands"][2]["mean"] == pytest.approx(0.1)


def test_splits_that_are_not_there(tiny_corpus, tmp_path, info):
    with pytest.raises(SplitError, match="no split 'holdout'"):
        corpus_stats(Corpus(tiny_corpus), split="holdout")
    with CorpusWriter(tmp_path / "empty", info):
        pass
    with pytest.raises(SplitError, match="holds no patch"):
        corpus_stats(Corpus(tmp_path / "empty"))


def test_progress_is_told(tiny_corpus):
    steps = []
    corpus_stats(Corpus(tiny_corpus), split="val", progress=lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]
