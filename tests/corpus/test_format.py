import json
from dataclasses import replace

import pytest

from deepsentinel.corpus.arrays import all_metadata, corpus_arrays
from deepsentinel.corpus.format import FORMAT_VERSION, CorpusInfo, LabelSpec, dump_json
from deepsentinel.errors import BandError, CorpusError, LabelError, UnknownNameError


def test_info_survives_json(info):
    text = dump_json(info.to_json())
    assert CorpusInfo.from_json(json.loads(text)) == info
    assert dump_json(json.loads(text)) == text


def test_corpus_json_describes_itself(tiny_corpus):
    value = json.loads((tiny_corpus / "corpus.json").read_text())
    assert value["format_version"] == FORMAT_VERSION
    assert value["count"] == 12
    assert value["splits"] == {"test": 3, "train": 3, "val": 3}
    assert value["bands"]["s2"] == ["B02", "B03", "B04", "B8A"]
    landcover = next(label for label in value["labels"] if label["name"] == "landcover")
    assert [c["name"] for c in landcover["scheme"]["classes"]] == [
        "Water",
        "Tree cover",
        "Built-up",
    ]


def test_rasters_and_labels(info):
    assert info.rasters == ("landcover", "height", "cloud", "dem")
    assert info.label("dominant").kind == "label"
    with pytest.raises(LabelError, match=r"no label 'landcovr'. Did you mean 'landcover'"):
        info.label("landcovr")


def test_band_aliases_become_names():
    info = CorpusInfo(
        name="a", sensors=("s2",), bands={"s2": ("red", "B2")}, patch_size=8, resolution_m=10
    )
    assert info.bands["s2"] == ("B04", "B02")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"sensors": ("s1",)}, BandError),
        ({"sensors": ("s3",)}, UnknownNameError),
        ({"bands": {"s1": ("VV",), "s2": ("B77",)}}, BandError),
        ({"labels": (LabelSpec("a", "label"), LabelSpec("a", "mask"))}, LabelError),
        ({"extras": ("clouds",)}, CorpusError),
        ({"patch_size": 0}, CorpusError),
        ({"resolution_m": float("nan")}, CorpusError),
    ],
)
def test_contradictions_are_refused(info, change, error):
    with pytest.raises(error):
        replace(info, **change)


@pytest.mark.parametrize(
    ("name", "kind", "channels"),
    [
        ("s1", "mask", ()),
        ("a/b", "mask", ()),
        ("", "mask", ()),
        ("band_s1", "label", ()),
        ("ok", "masc", ()),
        ("ok", "target", ()),
        ("ok", "mask", ("a",)),
    ],
)
def test_labels_that_cannot_be(name, kind, channels):
    with pytest.raises(LabelError):
        LabelSpec(name, kind, channels=channels)


@pytest.mark.parametrize("missing", ["bands", "labels", "count"])
def test_incomplete_json(info, missing):
    value = info.to_json()
    del value[missing]
    with pytest.raises(CorpusError, match=missing):
        CorpusInfo.from_json(value)


def test_shards_and_chunks(info):
    specs = corpus_arrays(info)
    metadata = all_metadata(info, 300)
    assert specs["s2"].shard_path(2) == "s2/c/2/0/0/0"
    assert specs["landcover"].shard_path(0) == "landcover/c/0/0/0"
    assert metadata["s2"]["shape"] == [300, 4, 16, 16]
    grid = metadata["s2"]["chunk_grid"]["configuration"]["chunk_shape"]
    assert grid == [128, 4, 16, 16]
    inner = metadata["s2"]["codecs"][0]["configuration"]
    assert inner["chunk_shape"] == [1, 1, 16, 16]
    assert [codec["name"] for codec in inner["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert inner["codecs"][1]["configuration"] == {
        "typesize": 2,
        "cname": "lz4",
        "clevel": 5,
        "shuffle": "bitshuffle",
        "blocksize": 0,
    }
    assert inner["index_location"] == "end"
    types = {name: metadata[name]["data_type"] for name in specs}
    assert types == {
        "s1": "int16",
        "s2": "uint16",
        "landcover": "int16",
        "height": "float32",
        "cloud": "uint8",
        "dem": "float32",
    }


def test_flag_meanings_are_single_words(info, scheme):
    from deepsentinel.labels import scheme as known

    spec = corpus_arrays(replace(info, labels=(LabelSpec("cover", "mask", known("worldcover")),)))
    attributes = spec["cover"].attributes
    words = attributes["flag_meanings"].split(" ")
    assert len(words) == len(attributes["flag_values"]) == 11
    assert words[5] == "Bare_sparse_vegetation"
