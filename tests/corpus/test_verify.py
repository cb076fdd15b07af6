import json
import os

import pytest

from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.verify import verify
from deepsentinel.errors import CorpusNotFoundError


def shard(root, name="s2"):
    return root / "data.zarr" / name / "c" / "0" / "0" / "0" / "0"


def row(root, number):
    return Corpus(root).index.slice(number, 1).to_pylist()[0]


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def test_a_sound_corpus(tiny_corpus):
    steps = []
    report = verify(tiny_corpus, progress=lambda done, total: steps.append((done, total)))
    assert report.ok
    assert report.patches == 12
    assert report.chunks == 8 * 2 + 10 * 4 + 9 * 4 + 12  # s1, s2, rasters with labels, dem
    assert steps == [(12, 12)]
    assert str(report) == "12 patches, 104 chunks checked: all sound"


def test_each_damaged_chunk_is_named(tiny_corpus):
    first, second = row(tiny_corpus, 3), row(tiny_corpus, 7)
    path = shard(tiny_corpus)
    flip(path, first["s2_offset"] + 40)
    flip(path, second["s2_offset"] + second["s2_size"] - 1)  # in the last checksum
    report = verify(tiny_corpus)
    assert [(d.id, d.shard) for d in report.bad] == [
        ("patch-0003", "data.zarr/s2/c/0/0/0/0"),
        ("patch-0007", "data.zarr/s2/c/0/0/0/0"),
    ]
    assert report.bad[0].reason.startswith("band B02: its checksum")
    assert report.bad[1].reason.startswith("band B8A: its checksum")
    assert "2 problems" in str(report)


def test_the_index_at_the_end_of_a_shard(tiny_corpus):
    flip(shard(tiny_corpus), -30)
    (damage,) = verify(tiny_corpus).bad
    assert "checksum (crc32c) of the shard's index differs" in damage.reason
    Corpus(tiny_corpus, checksum=True).read(0)  # our reader does not need it


def test_a_truncated_and_a_missing_shard(tiny_corpus):
    os.truncate(shard(tiny_corpus), row(tiny_corpus, 6)["s2_offset"] + 5)
    shard(tiny_corpus, "s1").unlink()
    bad = verify(tiny_corpus).bad
    assert {d.id for d in bad if "/s2/" in d.shard} >= {"patch-0006", "patch-0011", ""}
    assert "patch-0005" not in {d.id for d in bad if "/s2/" in d.shard}
    assert "patch-0000" in {d.id for d in bad if "/s1/" in d.shard}


def test_bytes_that_nobody_wrote(tiny_corpus):
    path = shard(tiny_corpus)
    data = path.read_bytes()
    path.write_bytes(b"x" + data)
    assert not verify(tiny_corpus).ok


def test_counts_and_metadata(tiny_corpus):
    path = tiny_corpus / "corpus.json"
    whole = path.read_text()
    path.write_text(whole.replace('"count": 12', '"count": 13'))
    (damage,) = verify(tiny_corpus).bad
    assert damage.shard == "corpus.json"
    assert "states 13 patches" in damage.reason
    path.write_text(whole.replace('"resolution_m": 10', '"resolution_m": 20'))
    (damage,) = verify(tiny_corpus).bad
    assert damage.shard == "corpus.json"
    assert "not what the index was written for" in damage.reason
    path.write_text(whole)
    array = tiny_corpus / "data.zarr" / "s2" / "zarr.json"
    value = json.loads(array.read_text())
    value["attributes"]["scale_factor"] = 1.0
    array.write_text(json.dumps(value))
    (damage,) = verify(tiny_corpus).bad
    assert damage.shard == "data.zarr/s2/zarr.json"
    assert "attributes" in damage.reason
    array.unlink()
    assert "cannot be read" in verify(tiny_corpus).bad[0].reason


def change_index(root, column, change):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = root / "index.parquet"
    table = pq.read_table(path)
    values = table[column].to_pylist()
    change(values)
    place = table.column_names.index(column)
    changed = table.set_column(
        place, table.schema.field(column), pa.array(values, table[column].type)
    )
    pq.write_table(changed, path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("id", "patch-0001", "occurs 2 times"),
        ("row", 1, "taken more than once"),
        ("shard", 5, "does not fit its row"),
        ("s2_gaps", 7, "wrong about pixels that were not observed"),
        ("s2_size", 100, "more than the patch has"),
    ],
)
def test_an_index_that_contradicts_the_bytes(tiny_corpus, column, value, message):
    change_index(tiny_corpus, column, lambda values: values.__setitem__(0, value))
    assert any(message in damage.reason for damage in verify(tiny_corpus).bad)


def test_rows_that_were_exchanged(tiny_corpus):
    def exchange(values):
        values[0], values[1] = values[1], values[0]

    change_index(tiny_corpus, "s2_offset", exchange)
    change_index(tiny_corpus, "s2_size", exchange)
    reasons = {(d.id, d.reason) for d in verify(tiny_corpus).bad}
    assert (
        "patch-0000",
        "the shard's index and the corpus's index name different places",
    ) in reasons


def test_nowhere(tmp_path):
    with pytest.raises(CorpusNotFoundError):
        verify(tmp_path)
