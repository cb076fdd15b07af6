"""The command line: what each verb prints, writes and returns, and how it fails."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.image as mpl_image
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

import deepsentinel
from deepsentinel.bands import S2_BANDS
from deepsentinel.cli import app, main
from deepsentinel.corpus.codes import encode_s1
from deepsentinel.corpus.format import CorpusInfo, LabelSpec
from deepsentinel.corpus.opening import open_corpus
from deepsentinel.corpus.patch import PatchPixels, PatchRecord
from deepsentinel.corpus.write import CorpusWriter
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.labels import scheme

VERBS = [c.name or c.callback.__name__ for c in app.registered_commands]
SIZE = 24


class Done(NamedTuple):
    """What a call came to."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output as JSON; NaN and infinity are no JSON."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the entry point in this process."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["deepsentinel", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        return Done(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the call."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 synthetic patches."""
    return write_synthetic_corpus(
        tmp_path_factory.mktemp("cli") / "corpus", patches=16, patch_size=32, seed=3
    )


@pytest.fixture
def unseen(tmp_path: Path) -> Path:
    """One patch of radar of which one band was never observed; its id is a number."""
    info = CorpusInfo(
        name="unseen", sensors=("s1",), bands={"s1": ("VV", "VH")}, patch_size=16, resolution_m=10
    )
    db = np.full((2, 16, 16), -9.0, np.float32)
    db[1] = np.nan
    with CorpusWriter(tmp_path / "unseen", info) as writer:
        writer.add(PatchRecord(id="7"), PatchPixels(s1=encode_s1(db)))
    return tmp_path / "unseen"


def write_source(folder: Path, cells: int) -> Path:
    """Cells in the manner of TerraMesh, 20 km apart, dark enough to exclude an offset."""
    rng = np.random.default_rng(0)
    layers = {
        "S1RTC": rng.normal(-14, 3, (2, SIZE, SIZE)).astype(np.float32),
        "S2L2A": rng.integers(5, 3000, (len(S2_BANDS), SIZE, SIZE)).astype(np.int16),
        "LULC": rng.integers(1, 10, (1, SIZE, SIZE)).astype(np.uint8),
    }
    for name, values in layers.items():
        (folder / name).mkdir(parents=True)
        for k in range(cells):
            with rasterio.open(
                folder / name / f"cell{k}.tif",
                "w",
                driver="GTiff",
                crs="EPSG:32633",
                transform=Affine(10, 0, 500_000, 0, -10, 5_000_000 + 20_000 * k),
                count=len(values),
                height=SIZE,
                width=SIZE,
                dtype=values.dtype,
            ) as file:
                file.write(values)
    return folder


def assert_one_message(done: Done, *words: str) -> None:
    """Code 1, nothing on standard output, one line on standard error, no traceback."""
    assert done.code == 1
    assert done.out == ""
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert re.match(r"\w+Error: ", done.err)
    for word in words:
        assert word in done.err


def test_every_verb_of_the_design_for_now_is_there(cli):
    assert set(VERBS) >= {
        *("demo", "encoders", "info", "convert", "verify"),
        *("stats", "plot", "finetune"),
    }
    shown = cli("--help")
    assert shown.code == 0
    for verb in VERBS:
        assert verb in shown.out


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example_that_starts_with_the_verb(cli, verb):
    shown = cli(verb, "--help")
    assert shown.code == 0
    assert re.search(rf"Example:\s+deepsentinel {verb}\b", shown.out)
    assert "[bold]" not in shown.out


@pytest.mark.parametrize("verb", VERBS)
def test_examples_of_the_help_keep_their_square_brackets(cli, verb):
    [callback] = [c.callback for c in app.registered_commands if c.callback.__name__ == verb]
    examples = re.findall(r"\[bold\](.*)\[/\]", callback.__doc__)
    shown = " ".join(cli(verb, "--help").out.split())
    assert examples
    for example in examples:
        assert example.replace("\\[", "[") in shown


def test_tables_keep_square_brackets_of_names(cli, tmp_path):
    info = CorpusInfo(
        name="fields[2021]",
        description="made of [x]",
        sensors=("s1",),
        bands={"s1": ("VV", "VH")},
        patch_size=SIZE,
        resolution_m=10,
    )
    with CorpusWriter(tmp_path / "corpus", info) as writer:
        pixels = PatchPixels(s1=encode_s1(np.full((2, SIZE, SIZE), -9.0, np.float32)))
        writer.add(PatchRecord(id="a", split="train[1]"), pixels)
    for verb in ("info", "stats"):
        assert "fields[2021]" in cli(verb, tmp_path / "corpus").out
    shown = cli("info", tmp_path / "corpus").out
    assert "made of [x]" in shown
    assert "train[1]" in shown


def test_version_and_no_arguments(cli):
    assert cli("--version").out.strip() == deepsentinel.__version__
    assert "Usage" in cli().out


def test_the_module_is_the_program():
    command = [sys.executable, "-m", "deepsentinel", "info", "no[w]here"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert_one_message(
        Done(done.returncode, done.stdout, done.stderr), "CorpusNotFoundError", "no[w]here"
    )


def test_help_needs_no_torch():
    code = "import sys, deepsentinel.cli; print([m for m in ('torch', 'rasterio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_verb_names_the_nearest(cli):
    done = cli("plto")
    assert done.code == 2
    assert "'plot'" in done.err
    assert "Traceback" not in done.err


def test_info(cli, corpus):
    shown = cli("info", corpus)
    assert shown.code == 0
    for fact in ("16 of 32 x 32 px", "VV VH", "B8A", "landcover", "synthetic", "CC0"):
        assert fact in shown.out
    facts = cli("info", corpus, "--json").json()
    assert facts["count"] == 16
    assert facts["synthetic"] is True
    assert sum(facts["splits"].values()) == 16


def test_stats_agree_with_the_pixels(cli, corpus):
    facts = cli("stats", corpus, "--json").json()
    opened = open_corpus(corpus)
    red = np.stack([opened.read_physical(i)["s2"][3] for i in range(len(opened))])
    row = next(b for b in facts["bands"] if b["band"] == "B04")
    assert row["mean"] == pytest.approx(red.mean(), abs=1e-5)
    assert row["std"] == pytest.approx(red.std(), abs=1e-5)
    shown = cli("stats", corpus)
    assert f"{red.mean():.4f}" in shown.out
    assert "16 patches" in shown.out
    few = cli("stats", corpus, "--split", "train", "--max-patches", 2, "--json").json()
    assert (few["split"], few["patches"]) == ("train", 2)


def test_stats_of_what_was_never_observed_are_null_and_a_dash(cli, unseen):
    facts = cli("stats", unseen, "--json").json()
    assert facts["bands"][0]["mean"] == -9
    assert facts["bands"][1]["mean"] is None
    assert facts["bands"][1]["nan_share"] == 1
    row = next(line for line in cli("stats", unseen).out.splitlines() if "VH" in line)
    assert "nan" not in row
    assert "100.0%" in row


def test_plot_writes_a_picture_that_is_not_blank(cli, corpus, empty_folder):
    done = cli("plot", corpus, 3, "--out", "new/patch.png")
    assert done.code == 0
    assert "new/patch.png" in done.out
    picture = mpl_image.imread("new/patch.png")
    assert picture.shape[0] > 200
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 100
    name = open_corpus(corpus).record(3).id
    assert cli("plot", corpus, name).code == 0
    assert np.array_equal(mpl_image.imread(empty_folder / f"{name}.png"), picture), "same patch"


def test_plot_takes_an_id_that_is_a_number_for_an_id(cli, unseen, tmp_path):
    assert cli("plot", unseen, "7", "--out", tmp_path / "id.png").code == 0
    assert cli("plot", unseen, "0", "--out", tmp_path / "number.png").code == 0
    assert_one_message(cli("plot", unseen, "1"), "'1'", "7", "from 0 to 0")


def test_plot_of_a_corpus_with_two_masks_and_boxes(cli, tmp_path):
    names = ("crop", "cover")
    info = CorpusInfo(
        name="rich",
        sensors=("s1",),
        bands={"s1": ("VV",)},
        patch_size=16,
        resolution_m=10,
        labels=(
            LabelSpec("things", "boxes", scheme("worldcover")),
            *(LabelSpec(name, "mask", scheme("worldcover")) for name in names),
        ),
    )
    with CorpusWriter(tmp_path / "rich", info) as writer:
        writer.add(
            PatchRecord(id="a", labels={"things": ((2.0, 2.0, 9.0, 9.0, 1),)}),
            PatchPixels(
                s1=encode_s1(np.full((1, 16, 16), -9.0, np.float32)),
                rasters={n: np.full((16, 16), k, np.int16) for k, n in enumerate(names)},
            ),
        )
    pictures = {}
    for chosen in ((), ("crop",), ("cover",), ("cover", "things"), ("crop", "things")):
        options = [part for name in chosen for part in ("--label", name)]
        assert cli("plot", tmp_path / "rich", "a", *options, "--out", tmp_path / "a.png").code == 0
        pictures[chosen] = mpl_image.imread(tmp_path / "a.png")
    assert np.array_equal(pictures[()], pictures["crop", "things"]), "the first of each"
    assert not np.array_equal(pictures["crop",], pictures["cover",])
    assert not np.array_equal(pictures["cover",], pictures["cover", "things"])
    assert_one_message(cli("plot", tmp_path / "rich", "a", "--label", "crp"), "'crp'", "crop")


def test_verify_sound_and_flipped(cli, corpus, tmp_path):
    sound = cli("verify", corpus, "--json")
    assert sound.code == 0
    assert sound.json()["ok"] is True
    assert "all sound" in cli("verify", corpus).out
    broken = write_synthetic_corpus(tmp_path / "broken", patches=4, patch_size=32, seed=3)
    shard = next(
        p for p in (broken / "data.zarr" / "s2").rglob("*") if "c/" in str(p) and p.is_file()
    )
    stored = bytearray(shard.read_bytes())
    stored[10] ^= 0xFF
    shard.write_bytes(stored)
    found = cli("verify", broken)
    assert found.code == 1
    assert open_corpus(broken).record(0).id in found.out
    listed = cli("verify", broken, "--json")
    assert listed.code == 1
    assert listed.json()["ok"] is False
    assert "s2" in json.dumps(listed.json()["bad"])


def test_convert(cli, tmp_path):
    source, dest = write_source(tmp_path / "cells", 6), tmp_path / "corpus"
    report = cli("convert", source, dest, "--json").json()
    assert report["converted"] == 6
    assert report == json.loads((dest / "convert_report.json").read_text())
    again = cli("convert", source, dest)
    assert again.code == 0
    assert "nothing to do" in again.out
    assert cli("verify", dest).code == 0
    assert_one_message(cli("convert", source, dest, "--seed", 1), "CorpusExistsError", "seed")
    with rasterio.open(source / "S1RTC" / "cell2.tif") as file:
        stored = open_corpus(dest)
        row = next(i for i in range(6) if "cell2" in stored.record(i).id)
        np.testing.assert_allclose(stored.read_physical(row)["s1"], file.read(), atol=0.005001)


def test_convert_real_pairs(cli, shared_data, tmp_path):
    done = cli(
        *("convert", shared_data / "terramesh", tmp_path / "corpus", "--json"),
        *("--boa-offset", "detect", "--patch-size", 128),
    )
    assert done.code == 0
    report = done.json()
    assert report["kind"] == "terramesh"
    assert report["converted"] > 0
    assert cli("plot", tmp_path / "corpus", 0, "--out", tmp_path / "real.png").code == 0
    assert cli("stats", tmp_path / "corpus", "--json").json()["patches"] == report["converted"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("convert", "nowhere", "dest"), ("SourceError", "nowhere")),
        (("convert", ".", "dest", "--kind", "teramesh"), ("teramesh", "terramesh")),
        (("convert", ".", "dest", "--boa-offset", "maybe"), ("--boa-offset", "'maybe'", "detect")),
        (("convert", ".", "dest", "--resampling", "cubical"), ("'cubical'", "bilinear")),
        (("convert", ".", "dest", "--splits", "train"), ("--splits", "train=0.7")),
        (("info", "nowhere"), ("CorpusNotFoundError", "nowhere", "convert")),
        (("stats", "nowhere"), ("CorpusNotFoundError",)),
        (("verify", "nowhere"), ("CorpusNotFoundError",)),
        (("plot", "nowhere", "0"), ("NotFoundError",)),
        (("stats", "CORPUS", "--split", "tset"), ("SplitError", "'tset'", "'test'", "train")),
        (("plot", "CORPUS", "no-such-patch"), ("no-such-patch", "synthetic", "from 0 to 15")),
        (("plot", "CORPUS", "99"), ("'99'", "from 0 to 15")),
        (("finetune", "CORPUS", "--label", "cover"), ("LabelError", "'cover'", "landcover")),
        (("finetune", "CORPUS", "--sensors", "s3"), ("'s3'", "s1 s2")),
        (("finetune", "CORPUS", "--encoder", "nanno"), ("EncoderNotFoundError", "nanno")),
        (("encoders", "deepsentinel-nno"), ("EncoderNotFoundError", "'deepsentinel-nano'")),
        (("demo", "--data", "nowhere"), ("SourceError", "nowhere")),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else None,
)
def test_errors_are_one_message(cli, corpus, empty_folder, arguments, words):
    done = cli(*(corpus if a == "CORPUS" else a for a in arguments))
    if arguments[0] == "demo":
        done = done._replace(out="")  # it says what it does before
    assert_one_message(done, *words)
    assert not (empty_folder / "dest").exists()


def test_finetune(cli, corpus, tmp_path):
    from deepsentinel.encoders.fusion import FusionEncoder

    FusionEncoder("resnet10t", levels=(1, 2), embed_dim=16).save_pretrained(tmp_path / "encoder")
    arguments = (
        *("finetune", corpus, "--encoder", tmp_path / "encoder", "--decoder", "linear"),
        *("--epochs", 1, "--freeze-encoder", "--out", tmp_path / "run"),
    )
    facts = cli(*arguments, "--json").json()
    assert set(facts) == {"best_epoch", "miou", "test", "model"}
    assert 0 <= facts["test"]["pixel_accuracy"] <= 1
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["test"] == facts["test"]
    assert deepsentinel.load_model(facts["model"]).num_classes == 8
    shown = cli(*arguments)
    assert shown.code == 0, "finished: the same scores at once"
    assert f"{facts['test']['miou']:.4g}" in shown.out
    classes = cli(
        *("finetune", corpus, "--encoder", tmp_path / "encoder", "--task", "classification"),
        *("--epochs", 1, "--sensors", "s1", "--out", tmp_path / "classes", "--json"),
    )
    assert "accuracy" in classes.json()["test"]


def test_encoders(cli):
    cards = cli("encoders", "--json").json()
    names = [card["name"] for card in cards]
    assert "deepsentinel-nano" in names
    shown = cli("encoders")
    assert shown.code == 0
    for name in names:
        assert name in shown.out
    one = cli("encoders", "deepsentinel-nano", "--json").json()
    assert one == cards[names.index("deepsentinel-nano")]
    card = cli("encoders", "deepsentinel-nano").out
    assert one["licence"] in card
    assert "---" not in card.splitlines()[0]


PRESS_CTRL_C = """
import os, signal
from deepsentinel.cli import main
from deepsentinel.corpus.write import CorpusWriter

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have left it ignored
add = CorpusWriter.add

def press(self, record, pixels):
    add(self, record, pixels)
    if len(self.done) == 3:
        os.kill(os.getpid(), signal.SIGINT)

CorpusWriter.add = press
main()
"""


def test_ctrl_c_stops_with_130_and_the_corpus_is_continued(cli, tmp_path):
    source, dest = write_source(tmp_path / "cells", 8), tmp_path / "corpus"
    command = [sys.executable, "-c", PRESS_CTRL_C, "convert", str(source), str(dest)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.startswith("Stopped. What was completed is kept")
    assert "Traceback" not in done.stderr
    assert open_corpus(dest).unfinished
    assert "was stopped" in cli("info", dest).out
    again = cli("convert", source, dest)
    assert f"8 terramesh patches of {SIZE} px" in again.out
    assert "3 from an earlier run" in again.out
    assert cli("verify", dest).code == 0
    assert "was stopped" not in cli("info", dest).out


PRESS_CTRL_C_IN_TRAINING = """
import os, signal
from deepsentinel.cli import main
from deepsentinel.training.finetuning.checkpoint import RunFolder

signal.signal(signal.SIGINT, signal.default_int_handler)
write, written = RunFolder.write, []

def press(self, *arguments, **options):
    write(self, *arguments, **options)
    written.append(1)
    if len(written) == 2:  # the state before the first step, then the first epoch
        os.kill(os.getpid(), signal.SIGINT)

RunFolder.write = press
main()
"""


def test_ctrl_c_in_training_ends_with_the_same_scores(cli, corpus, tmp_path):
    from deepsentinel.encoders.fusion import FusionEncoder

    FusionEncoder("resnet10t", levels=(1, 2), embed_dim=16).save_pretrained(tmp_path / "encoder")
    arguments = [
        *("finetune", corpus, "--encoder", tmp_path / "encoder", "--decoder", "linear"),
        *("--epochs", 3, "--freeze-encoder", "--out"),
    ]
    torch.manual_seed(1)  # of no effect: --seed decides
    whole = cli(*arguments, tmp_path / "whole", "--json").json()
    command = [*map(str, arguments), str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", PRESS_CTRL_C_IN_TRAINING, *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert "Stopped. What was completed is kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "scores.json").exists()
    continued = cli(*command, "--json").json()
    assert {**continued, "model": None} == {**whole, "model": None}
