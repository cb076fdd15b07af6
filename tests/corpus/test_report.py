"""The report: what a person reads, and what a script reads."""

import json
from pathlib import Path

from deepsentinel.corpus.patch import PatchRecord
from deepsentinel.corpus.report import ConvertReport, count_offsets
from deepsentinel.corpus.sources.base import Skipped


def report(**changes) -> ConvertReport:
    facts = {
        "path": Path("corpus"),
        "kind": "terramesh",
        "patch_size": 224,
        "converted": 3,
        "already": 0,
        "skipped": (Skipped(name="a", reason="too bright", remedy="--boa-offset 0"),),
        "offsets": {"detected 0": 3},
        "splits": {"train": 2, "val": 1},
        "notes": ("split test is empty",),
    }
    return ConvertReport(**(facts | changes))


def test_it_reads_well():
    text = str(report())
    for part in ("3 terramesh patches of 224 px in corpus", "train 2, val 1", "detected 0 3"):
        assert part in text
    for part in ("note: split test is empty", "a: too bright", "to include it: --boa-offset 0"):
        assert part in text


def test_long_lists_are_cut_and_say_where_the_rest_is():
    many = tuple(Skipped(name=f"cell{k}", reason="broken") for k in range(50))
    text = str(report(skipped=many))
    assert "left out: 50" in text
    assert "30 more, see convert_report.json" in text
    assert "cell49" not in text


def test_json_is_the_same_however_often_it_was_interrupted():
    first, second = report(already=0), report(already=2)
    assert first.to_json() == second.to_json()
    assert json.loads(json.dumps(first.to_json()))["skipped"][0]["remedy"] == "--boa-offset 0"
    assert "2 from an earlier run" in str(second)


def test_offsets_are_counted_by_how_they_were_known():
    records = [
        PatchRecord(id="a", boa_offset=-1000, boa_offset_source="product-name"),
        PatchRecord(id="b", boa_offset=0, boa_offset_source="detected"),
        PatchRecord(id="c", boa_offset=0, boa_offset_source="detected"),
        PatchRecord(id="d"),
    ]
    assert count_offsets(records) == {"detected 0": 2, "product-name -1000": 1}
