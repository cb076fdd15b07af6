"""Converting: interrupted anywhere and continued, refused where options differ, nothing silent."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from deepsentinel.bands import S2_BANDS
from deepsentinel.corpus.convert import convert
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.sources import SOURCES, detect_kind
from deepsentinel.corpus.verify import verify
from deepsentinel.errors import CorpusExistsError, SourceError, SplitError, UnknownNameError

SIZE, CELLS = 24, 9


def write(path: Path, values: np.ndarray, transform: Affine) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "crs": "EPSG:32633",
        "transform": transform,
        "dtype": values.dtype,
    }
    count, height, width = values.shape
    with rasterio.open(path, "w", count=count, height=height, width=width, **profile) as file:
        file.write(values)


def write_cell(
    folder: Path, name: str, *, north: float, darkest: int = 5, size: int = SIZE
) -> None:
    """One cell in the manner of TerraMesh, 24 px, dark enough to exclude an offset."""
    rng = np.random.default_rng(int(north))
    transform = Affine(10, 0, 500_000, 0, -10, north)
    s2 = rng.integers(darkest, darkest + 3000, (len(S2_BANDS), size, size)).astype(np.int16)
    write(folder / "S1RTC" / f"{name}.tif", rng.normal(-14, 3, (2, size, size)), transform)
    write(folder / "S2L2A" / f"{name}.tif", s2, transform)
    write(
        folder / "LULC" / f"{name}.tif", rng.integers(1, 10, (1, size, size), np.uint8), transform
    )


@pytest.fixture
def source(tmp_path) -> Path:
    """Nine cells, 20 km apart: a block each."""
    for k in range(CELLS):
        write_cell(tmp_path / "source", f"cell{k}", north=5_000_000 + 20_000 * k)
    return tmp_path / "source"


def fingerprint(root: Path) -> dict[str, str]:
    """Hash of every file, by its path."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_killed_after_any_patch_it_continues_to_the_same_bytes(source, tmp_path):
    convert(source, tmp_path / "whole")
    wanted = fingerprint(tmp_path / "whole")
    assert not any(name.startswith(".writing") for name in wanted)
    for stop in range(1, CELLS):
        dest = tmp_path / f"stopped{stop}"
        child = os.fork()
        if child == 0:
            kill = lambda done, _, stop=stop: done < stop or os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            convert(source, dest, progress=kill)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        report = convert(source, dest)
        assert (report.converted, report.already) == (CELLS, stop)
        assert fingerprint(dest) == wanted
        assert verify(dest).bad == ()


def test_killed_from_outside_at_odd_moments(source, tmp_path):
    convert(source, tmp_path / "whole", name="odd")
    code = "import sys; from deepsentinel import convert; convert(*sys.argv[1:], name='odd')"
    for delay in (0.0, 0.02):
        dest = tmp_path / f"odd{delay}"
        command = [sys.executable, "-c", code, str(source), str(dest)]
        child = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        while not (dest / "convert.json").exists() and child.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
        child.kill()
        child.wait()
        convert(source, dest, name="odd")
        assert fingerprint(dest) == fingerprint(tmp_path / "whole")


def test_ctrl_c_leaves_a_corpus_that_opens(source, tmp_path):
    def press(done: int, _: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "corpus", progress=press)
    assert Corpus(tmp_path / "corpus").unfinished
    report = convert(source, tmp_path / "corpus")
    assert (report.already, report.converted) == (4, CELLS)
    assert "4 from an earlier run" in str(report)


def test_a_finished_corpus_is_left_alone(source, tmp_path):
    convert(source, tmp_path / "corpus")
    before = fingerprint(tmp_path / "corpus")
    report = convert(source, tmp_path / "corpus")
    assert "nothing to do" in str(report)
    assert fingerprint(tmp_path / "corpus") == before


def test_new_files_are_appended_and_blocks_keep_their_split(source, tmp_path):
    convert(source, tmp_path / "corpus")
    corpus = Corpus(tmp_path / "corpus")
    before = {corpus.record(i).id: corpus.record(i).split for i in range(CELLS)}
    for k in range(CELLS, CELLS + 4):
        write_cell(source, f"cell{k}", north=5_000_000 + 20_000 * k)
    write_cell(source, "neighbour", north=5_000_000 + 20_000 * 3 - 240)
    report = convert(source, tmp_path / "corpus")
    assert (report.already, report.converted) == (CELLS, CELLS + 5)
    corpus = Corpus(tmp_path / "corpus")
    after = {corpus.record(i).id: corpus.record(i).split for i in range(len(corpus))}
    assert {k: after[k] for k in before} == before
    assert after["neighbour"] == before["cell3"]


@pytest.mark.parametrize(
    "option",
    [
        {"patch_size": 12},
        {"boa_offset": 0},
        {"resampling": "nearest"},
        {"seed": 1},
        {"block_m": 5e3},
    ],
)
def test_other_options_are_refused_and_named(source, tmp_path, option):
    convert(source, tmp_path / "corpus")
    (name,) = option
    with pytest.raises(CorpusExistsError, match=name):
        convert(source, tmp_path / "corpus", **option)


def test_a_corpus_that_was_not_converted_is_not_touched(source, tmp_path):
    convert(source, tmp_path / "corpus")
    (tmp_path / "corpus" / "convert.json").unlink()
    with pytest.raises(CorpusExistsError, match="not converted"):
        convert(source, tmp_path / "corpus")


def test_bright_scenes_are_left_out_and_listed(source, tmp_path):
    write_cell(source, "bright", north=6_000_000, darkest=2500)
    write_cell(source, "offset", north=6_100_000, darkest=1005)
    auto = convert(source, tmp_path / "auto")
    assert {s.name for s in auto.skipped} == {"bright", "offset"}
    by_name = {s.name: s for s in auto.skipped}
    assert "detect" in by_name["offset"].remedy
    assert "detect" not in by_name["bright"].remedy  # its pixels do not decide it
    detect = convert(source, tmp_path / "detect", boa_offset="detect")
    assert [s.name for s in detect.skipped] == ["bright"]
    assert detect.offsets == {"detected -1000": 1, "detected 0": CELLS}
    written = json.loads((tmp_path / "detect" / "convert_report.json").read_text())
    assert written["skipped"][0]["name"] == "bright"


def test_tiles(source, tmp_path):
    report = convert(source, tmp_path / "corpus", patch_size=10)
    corpus = Corpus(tmp_path / "corpus")
    assert report.converted == 4 * CELLS
    assert any("4 rows and 4 columns" in note for note in report.notes)
    record = corpus.record(corpus.find("cell2_1_0"))
    with rasterio.open(source / "S2L2A" / "cell2.tif") as file:
        dn = file.read()[:, 10:20, :10]
    np.testing.assert_array_equal(corpus.read(corpus.find("cell2_1_0")).s2, dn + 1000)
    assert record.transform == (10, 0, 500_000, 0, -10, 5_040_000 - 100)
    by_scene = {}
    for i in range(len(corpus)):
        by_scene.setdefault(corpus.record(i).id.split("_")[0], set()).add(corpus.record(i).split)
    assert all(len(splits) == 1 for splits in by_scene.values())


def test_scenes_that_are_too_small_are_named(source, tmp_path):
    write_cell(source, "tiny", north=7_000_000, size=20)
    report = convert(source, tmp_path / "corpus")
    (skipped,) = report.skipped
    assert skipped.name == "tiny"
    assert "--patch-size 20" in skipped.remedy


def test_no_data_is_not_observed(source, tmp_path):
    """Zeros of S2, NaN and the fill of S1: NaN just there."""
    s2, s1 = source / "S2L2A" / "cell0.tif", source / "S1RTC" / "cell0.tif"
    with rasterio.open(s2, "r+") as file:
        dn = file.read()
        dn[3, 2:5, 1:4] = 0
        dn[5, 0, 0] = -32768
        dn[6, 1, 1] = -40  # harmonised elsewhere: negative, but observed
        file.write(dn)
    with rasterio.open(s1, "r+") as file:
        db = file.read()
        db[0, 6:8] = np.nan
        db[1, 9] = -32768
        db[1, 10] = -np.inf
        file.write(db)
    convert(source, tmp_path / "corpus")
    corpus = Corpus(tmp_path / "corpus")
    values = corpus.read_physical(corpus.find("cell0"))
    np.testing.assert_array_equal(np.isnan(values["s2"]), (dn == 0) | (dn == -32768))
    assert values["s2"][6, 1, 1] == pytest.approx(-0.004)
    np.testing.assert_array_equal(np.isnan(values["s1"]), ~np.isfinite(db) | (db == -32768))


def test_broken_files_are_left_out_whole(source, tmp_path):
    for name in ("S2L2A/cell1.tif", "LULC/cell2.tif"):
        path = source / name
        path.write_bytes(path.read_bytes()[:-200])
    (source / "S1RTC" / "cell3.tif").write_bytes(b"not a raster")
    report = convert(source, tmp_path / "corpus")
    assert report.converted == CELLS - 3
    assert {s.name for s in report.skipped} == {"cell1", "cell2", "cell3"}
    assert all("cell" in s.reason for s in report.skipped)
    assert len(Corpus(tmp_path / "corpus")) == CELLS - 3


def test_if_nothing_is_left_it_is_an_error_and_no_corpus(source, tmp_path):
    for path in source.rglob("*.tif"):
        path.write_bytes(b"gone")
    with pytest.raises(SourceError, match="cell0"):
        convert(source, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_codes_that_the_scheme_lacks_are_named(source, tmp_path):
    with rasterio.open(source / "LULC" / "cell4.tif", "r+") as file:
        file.write(np.full((1, SIZE, SIZE), 77, np.uint8))
    report = convert(source, tmp_path / "corpus")
    (skipped,) = report.skipped
    assert skipped.name == "cell4"
    assert "77" in skipped.reason


def test_one_modality_alone(source, tmp_path):
    shutil.rmtree(source / "S1RTC")
    shutil.rmtree(source / "LULC")
    convert(source, tmp_path / "corpus")
    info = Corpus(tmp_path / "corpus").info
    assert (info.sensors, info.labels, info.extras) == (("s2",), (), ())


def test_empty_splits_are_said(source, tmp_path):
    report = convert(source, tmp_path / "corpus", block_m=1e6)
    assert any("empty" in note and "--block-m" in note for note in report.notes)


def test_a_given_offset_against_the_names_is_said(shared_data, tmp_path):
    report = convert(shared_data / "bigearthnet" / "pairs", tmp_path / "corpus", boa_offset=-1000)
    assert any("3 scene(s) say otherwise" in note for note in report.notes)


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("terramesh", "terramesh"),
        ("bigearthnet/pairs", "bigearthnet"),
        ("bigearthnet/s2_scene", "bigearthnet-npz"),
        ("bigearthnet/s2_scene/patches.npz", "bigearthnet-npz"),
        ("ssl4eo", "ssl4eo"),
        ("ssl4eo/0000200", "ssl4eo"),
        ("worldcereal", "worldcereal"),
        ("otbtf", "otbtf"),
        ("majortom", "majortom"),
    ],
)
def test_kinds_are_detected(shared_data, place, kind):
    assert detect_kind(shared_data / place) == kind


def test_what_is_no_source_lists_the_kinds(tmp_path, source):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError) as caught:
        convert(tmp_path / "empty", tmp_path / "corpus")
    assert all(kind in str(caught.value) for kind in SOURCES)
    with pytest.raises(SourceError, match="no source at"):
        convert(tmp_path / "nowhere", tmp_path / "corpus")
    with pytest.raises(SourceError, match="is no majortom source"):
        convert(source, tmp_path / "corpus", kind="majortom")
    with pytest.raises(UnknownNameError, match="terramesh"):
        convert(source, tmp_path / "corpus", kind="teramesh")


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"boa_offset": -500}, SourceError),
        ({"boa_offset": "guess"}, SourceError),
        ({"resampling": "lanczos"}, UnknownNameError),
        ({"s2_level": "L3"}, UnknownNameError),
        ({"splits": {"train": -1.0}}, SplitError),
        ({"patch_size": 0}, SourceError),
        ({"patch_size": 25}, SourceError),
    ],
)
def test_impossible_options(source, tmp_path, option, error):
    with pytest.raises(error):
        convert(source, tmp_path / "corpus", **option)
    assert not (tmp_path / "corpus").exists()
