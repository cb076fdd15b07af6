"""`evaluate` as a whole: protocol, controls, matrix, unseen classes, reports that are compared."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deepsentinel import evaluate
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import LabelError, ReportError, TrainingError, UnknownNameError
from deepsentinel.sample import PatchMeta
from deepsentinel.training.evaluate import Protocol, compare
from deepsentinel.training.evaluation.bench import Answers, Bench, merged
from deepsentinel.training.evaluation.intervals import interval
from deepsentinel.training.evaluation.matrix import (
    CLEAR,
    GATED,
    comparisons,
    difference,
    gated,
    matrix_rows,
)
from deepsentinel.training.evaluation.metrics import all_scores
from deepsentinel.training.evaluation.subjects import Subject
from deepsentinel.training.evaluation.units import patch_units
from deepsentinel.training.evaluation.unseen import SCRATCH, TAUGHT, class_split
from deepsentinel.training.reports.report import read_report

QUICK = Protocol(
    methods=("knn", "linear"),
    shots=(2,),
    shares=(1.0,),
    folds=3,
    seeds=2,
    random_twins=1,
    replicates=60,
    block_km=1.0,
    steps=10,
    tune_batch_size=4,
    pixels=6,
)


def scenes(count: int = 24, size: int = 16, seed: int = 0, wrong: int = 0):
    """Class 0 and 1 differ in S1 alone, 1 and 2 in S2 alone; 3 in both; one scene a block.

    Bright ground is rougher too: means and deviations of all bands tell the classes apart, none of
    them is mere noise, so that a few patches suffice to learn from. The first `wrong` patches have
    the label of another class.
    """
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for i in range(count):
        k = i % 4
        radar, optics = k in {1, 2}, k in {2, 3}
        s1 = -15 + 6 * radar + (1 + radar) * torch.randn(2, size, size, generator=generator)
        rough = 0.01 * (1 + optics) * torch.rand(12, size, size, generator=generator)
        s2 = 0.02 + 0.05 * optics + rough
        meta = PatchMeta(id=f"p{i}", lon=10 + 0.05 * (i // 4), lat=50.0)
        sample = {"meta": meta, "image_s1": s1, "image_s2": s2}
        k = (k + 1) % 4 if i < wrong else k
        samples.append(sample | {"label": torch.tensor(k), "mask": torch.full((size, size), k)})
    return samples


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "demo"
    return write_synthetic_corpus(folder, patches=24, patch_size=32, seed=1)


@pytest.fixture
def encoder(model):
    return {"mine": model().encoder.eval()}


def test_every_row_stands_beside_both_controls(encoder, tmp_path) -> None:
    found = evaluate(encoder, scenes(), QUICK, out_dir=tmp_path)
    names = ["mine", "mine, random weights", "band statistics"]
    keys = [(r.key["encoder"], r.key["method"], r.key["labels"]) for r in found.rows]
    budgets = ("2 per class", "100 %")
    assert keys == [(n, m, b) for n in names for m in ("knn", "linear") for b in budgets]
    table = found.report.table("scores_differences")
    assert set(table.column("less")) == set(names[1:])
    statistics = found.row(encoder="band statistics", method="linear", labels="100 %")
    assert statistics.scores["accuracy"] > 0.95  # of four classes, learnt from eight patches
    assert statistics.tested == 24
    assert statistics.trained == 8
    assert {p.name for p in tmp_path.iterdir()} >= {
        "report.html",
        "report.json",
        "scores.csv",
        "all_scores.csv",
        "scores_curves.png",
        "folds.png",
        "replicates.npz",
    }
    facts = read_report(tmp_path).facts
    assert facts["protocol"]["folds"] == 3
    assert len(facts["fingerprint"]) == 64
    with pytest.raises(ReportError, match="6 rows"):
        found.row(method="linear")


def test_a_budget_that_was_not_to_be_had_is_said(encoder) -> None:
    scarce = replace(QUICK, methods=("knn",), shots=(2, 50), shares=(), seeds=1)
    found = evaluate(encoder, scenes(), scarce)
    [note] = [n for n in found.report.notes if n.startswith("Classes with too few")]
    assert note.endswith(": '50 per class' came to 8 labels instead of 200.")


def test_rows_are_means_over_seeds_of_pooled_predictions(encoder) -> None:
    samples = scenes()
    units = patch_units(samples, "abcd")
    bench = Bench(samples, units, QUICK)
    rng = np.random.default_rng(0)
    answers = Answers(
        probabilities=[rng.dirichlet(np.ones(4), 24) for _ in range(2)], empty=[0, 0], trained=[1]
    )
    row = bench.row({"part": "scores"}, answers)
    slow = [all_scores("single", p, units.labels)["accuracy"] for p in answers.probabilities]
    assert row.scores["accuracy"] == pytest.approx(np.mean(slow))
    assert row.spread["accuracy"] == pytest.approx(np.std(slow, ddof=1))
    assert row.by_seed == tuple(slow)
    for b in range(5):  # replicates: seeds drawn again, and blocks, in a loop
        drawn = np.repeat(np.arange(24), bench.weights[b][bench.blocks].astype(int))
        each = [
            (p[drawn].argmax(axis=1) == units.labels[drawn]).mean() for p in answers.probabilities
        ]
        assert row.replicates[b] == pytest.approx(np.dot(each, bench.seed_weights[b]))
    assert row.intervals["accuracy"] == interval(row.scores["accuracy"], row.replicates)


def test_of_too_few_blocks_there_is_no_interval(encoder) -> None:
    """One block gives the same score whenever it is drawn; five may agree by chance."""
    units = patch_units(scenes(), "abcd")
    bench = Bench(scenes(), units, QUICK)
    rng = np.random.default_rng(0)
    answers = Answers(
        probabilities=[rng.dirichlet(np.ones(4), 24) for _ in range(2)], empty=[0, 0], trained=[1]
    )
    assert len(np.unique(bench.blocks)) == 6
    for count in (1, 5, 6):
        among = bench.blocks[units.patch] < count
        row = bench.row({"part": "scores"}, answers, among=among)
        known = count == 6
        assert (row.blocks, row.intervals["accuracy"].known) == (count, known)
        assert difference(row, row).verdict == ("same" if known else "not known")
    for count, known in ((2, False), (3, True)):  # of two seeds with other classes each
        among = bench.blocks[units.patch] < count
        rows = [bench.row({"part": "unseen"}, answers, among=among, part=True)] * 2
        both = merged(rows, bench.seed_weights)
        assert (both.blocks, both.intervals["accuracy"].known) == (2 * count, known)


def test_a_column_of_one_block_claims_nothing(encoder) -> None:
    samples = scenes()
    samples[0]["image_s2"] = torch.full_like(samples[0]["image_s2"], torch.nan)
    protocol = replace(QUICK, parts=("matrix",), clouds="real", seeds=1)
    report = evaluate(encoder, samples, protocol).report
    for line in report.table("matrix").rows:
        assert "not known" in line[report.table("matrix").columns.index("cloud 100 %")]
        assert line[-1] is None or line[-1].endswith("; not known at 100 %")
    below = [row for row in report.metrics["fusion"] if row["cloud"] == "100 %"]
    assert below
    assert all(row["below either"] is None for row in below)
    assert "Only 1 test block at 100 % cloud: there is no interval" in " ".join(report.notes)


def test_training_patches_never_test(encoder, monkeypatch) -> None:
    """A learner that remembers what it was taught never meets it again."""
    samples = scenes()
    units = patch_units(samples, "abcd")
    bench = Bench(samples, units, QUICK)
    vectors = np.stack([bench.blocks, np.arange(24)], axis=1).astype(np.float32)
    monkeypatch.setattr(bench, "vectors", lambda *_: vectors)
    seen = []

    def spy(method, train, val, questions, **_):
        parts = [set(x[0][:, 0]) for x in (train, val)] + [set(questions[0][:, 0])]
        seen.append(parts)
        raise TrainingError("enough")

    monkeypatch.setattr("deepsentinel.training.evaluation.bench.learn", spy)
    for _ in range(2):
        with pytest.raises(TrainingError, match="enough"):
            bench.probe(None, "knn", QUICK.budgets[1], (None,), (None,))
    train, val, test = seen[0]
    assert not (train & test)
    assert not (val & test)
    assert not (train & val)


def test_the_same_call_gives_the_same_numbers(encoder) -> None:
    protocol = replace(QUICK, seeds=1, methods=("linear",), shots=())
    first, second = (evaluate(encoder, scenes(), protocol) for _ in range(2))
    assert [r.scores for r in first.rows] == [r.scores for r in second.rows]
    assert all(
        np.array_equal(a.replicates, b.replicates)
        for a, b in zip(first.rows, second.rows, strict=False)
    )


def test_the_matrix_answers_its_question(encoder, tmp_path) -> None:
    protocol = replace(QUICK, parts=("matrix",), cloud_shares=(0.0, 0.5, 1.0), seeds=1)
    found = evaluate(encoder, scenes(32), protocol, out_dir=tmp_path)
    best = {
        (r.key["shown"], r.key["cloud"]): r
        for r in found.rows
        if r.key["encoder"] == "band statistics"
    }
    assert {shown for shown, _ in best} == {"s1", "s2", "both", CLEAR, GATED}
    accuracy = {k: r.scores["accuracy"] for k, r in best.items()}
    assert accuracy["both", "0 %"] > 0.9
    assert max(accuracy["s1", "0 %"], accuracy["s2", "0 %"]) < 0.7  # neither sensor suffices
    assert best["s1", "0 %"].scores == best["s1", "100 %"].scores
    assert best["s2", "100 %"].empty == best["s2", "100 %"].tested == 32
    assert best["s2", "0 %"].empty == best["both", "100 %"].empty == 0
    table = found.report.table("matrix")
    answers = table.column("below the better sensor?")
    assert answers[:2] == (None, None)
    assert all(a == "never" or a.startswith("at ") for a in answers[2:5])
    fused = {(c.encoder, c.shown, c.cloud): c for c in comparisons(found.rows)}
    one = fused["band statistics", "both", "0 %"]
    rows = best["both", "0 %"], best[one.better, "0 %"]
    want = interval(
        rows[0].scores["accuracy"] - rows[1].scores["accuracy"],
        rows[0].replicates - rows[1].replicates,
    )
    assert one.difference == want == difference(*rows)
    assert not one.below
    metrics = read_report(tmp_path).metrics
    assert metrics["fusion_ever_below"] == any(c.below for c in fused.values())


def test_fusion_that_is_worse_is_told(encoder) -> None:
    """Rows whose fused predictions are wrong everywhere."""
    samples = scenes()
    bench = Bench(samples, patch_units(samples, "abcd"), QUICK)
    right = np.eye(4)[bench.units.labels] * 0.9 + 0.025
    key = {"part": "matrix", "encoder": "x", "method": "linear"}
    rows = [
        bench.row(key | {"shown": shown, "cloud": "0 %"}, Answers([p, p], [], [0, 0], [1]))
        for shown, p in (("s1", right), ("s2", right[::-1]), ("both", np.roll(right, 1, axis=1)))
    ]
    (found,) = comparisons(rows)
    assert (found.better, found.below) == ("s1", True)
    assert found.difference.value == -1


def test_the_matrix_of_fine_tuned_models(encoder) -> None:
    """One split: five scenes train, two choose, two test; head and encoder learn fast."""
    samples = scenes(36)
    rate = {"steps": 30, "lr": 0.01, "encoder_lr": 0.01}
    chosen = {"parts": ("matrix",), "matrix_method": "finetune", "cloud_shares": (0.0, 1.0)}
    protocol = replace(QUICK, folds=None, seeds=1, **chosen, **rate)
    splits = ["train"] * 20 + ["val"] * 8 + ["test"] * 8
    bench = Bench(samples, patch_units(samples, "abcd"), protocol, splits=splits)
    who = [Subject("mine", "encoder", encoder["mine"]), Subject("statistics", "statistics")]
    rows = {(r.key["shown"], r.key["cloud"]): r for r in matrix_rows(bench, who, say=print)}
    assert {shown for shown, _ in rows} == {"s1", "s2", "both", CLEAR, GATED}
    assert {(r.key["encoder"], r.key["method"]) for r in rows.values()} == {("mine", "finetune")}
    accuracy = {k: r.scores["accuracy"] for k, r in rows.items()}
    assert accuracy[CLEAR, "0 %"] > 0.9
    assert max(accuracy["s1", "0 %"], accuracy["s2", "0 %"]) < 0.8  # neither sensor suffices
    assert accuracy[CLEAR, "100 %"] < 0.8  # it never saw radar alone, which would not suffice
    assert rows["s1", "0 %"].scores == rows["s1", "100 %"].scores
    blind = rows["s2", "100 %"]
    assert blind.empty == blind.tested == 8
    assert blind.scores["accuracy"] == 0.25  # the prior, one class for all
    assert all(rows["both", c].empty == 0 for c in ("0 %", "100 %"))
    assert [len(rows[GATED, c].chosen) for c in ("0 %", "100 %")] == [1, 1]


def test_gaps_of_the_corpus_are_its_clouds(encoder) -> None:
    samples = scenes(32)
    for i, sample in enumerate(samples):
        if i % 4 < 2:
            sample["image_s2"][:, : 16 if i % 8 < 4 else 8] = torch.nan
    protocol = replace(QUICK, parts=("matrix",), cloud_shares=(0.0, 0.5, 1.0), seeds=1)
    found = evaluate(encoder, samples, protocol)
    tested = {r.key["cloud"]: r.tested for r in found.rows if r.key["shown"] == "both"}
    assert tested == {"0 %": 16, "50 %": 8, "100 %": 8}
    empty = [r.empty for r in found.rows if (r.key["shown"], r.key["cloud"]) == ("s2", "100 %")]
    assert empty == [8, 8, 8]
    assert any("gaps of the corpus itself" in note for note in found.report.notes)


def test_the_gate_takes_whom_the_validation_blocks_prefer() -> None:
    samples = scenes()
    bench = Bench(samples, patch_units(samples, "abcd"), QUICK)
    right = np.eye(4)[bench.units.labels] * 0.9 + 0.025
    wrong = np.full_like(right, 0.25)

    def said(p):
        val = [
            [p[bench.units.of(f.val)] for f in bench.folds(seed)]
            for seed in bench.protocol.all_seeds
        ]
        return Answers([p, p], val, [0, 0], [1])

    found = gated(bench, [said(wrong), said(right), said(wrong)])
    np.testing.assert_allclose(found.probabilities[0], right)
    assert set(found.chosen) == {0.0}
    tied = gated(bench, [said(right), said(right), said(right)])
    assert set(tied.chosen) == {1.0}


def test_classes_never_seen(encoder, tmp_path) -> None:
    protocol = replace(QUICK, parts=("unseen",), unseen_share=0.5, seeds=1, shots=(1, 3))
    found = evaluate(encoder, scenes(48), protocol, out_dir=tmp_path)
    names = list(dict.fromkeys(r.key["encoder"] for r in found.rows))
    assert names == [
        "mine",
        f"mine, {TAUGHT}",
        "mine, random weights",
        f"mine, random weights, {TAUGHT}",
        f"mine, random weights, {SCRATCH}",
        "band statistics",
    ]
    scratch = found.row(encoder=f"mine, random weights, {SCRATCH}", labels="3 per class")
    assert scratch.key["method"] == "finetune"
    assert scratch.trained == 6
    assert 0 < scratch.tested < 24  # of two classes, in one fold
    seen, unseen = class_split(4, share=0.5, seed=0)
    assert sorted([*seen, *unseen]) == [0, 1, 2, 3]
    with pytest.raises(TrainingError, match="3 classes"):
        class_split(3, share=0.3, seed=0)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_fine_tuned_models_are_scored_on_the_same_units(encoder, task) -> None:
    protocol = replace(QUICK, methods=("linear", "finetune"), shots=(), seeds=1, task=task)
    before = {k: v.clone() for k, v in encoder["mine"].state_dict().items()}
    found = evaluate(encoder, scenes(16), protocol)
    frozen, tuned = (found.row(encoder="mine", method=m) for m in ("linear", "finetune"))
    assert frozen.tested == tuned.tested == (16 if task == "classification" else 96)
    assert tuned.intervals.keys() == frozen.intervals.keys()
    methods = {r.key["method"] for r in found.rows if r.key["encoder"] == "band statistics"}
    assert methods == {"linear"}
    assert all(torch.equal(v, before[k]) for k, v in encoder["mine"].state_dict().items())


def test_a_corpus_by_its_splits_and_by_its_masks(corpus, encoder) -> None:
    protocol = replace(QUICK, folds=None, methods=("linear",), shots=(), seeds=1)
    found = evaluate(encoder, corpus, protocol)
    test = len(DeepSentinelDataset(corpus, "test"))
    assert found.rows[0].tested == test
    assert found.report.facts["label"] == "landcover_class"
    masks = evaluate(encoder, corpus, replace(protocol, task="segmentation"))
    assert masks.rows[0].tested == test * 6
    assert masks.report.metrics["headline"] == "miou"
    with pytest.raises(UnknownNameError, match="landcover"):
        evaluate(encoder, corpus, replace(protocol, label="landcovr"))
    with pytest.raises(TrainingError, match="splits of a corpus"):
        evaluate(encoder, scenes(), protocol)


def test_reports_of_the_same_folds_are_compared_in_pairs(encoder, tmp_path) -> None:
    protocol = replace(QUICK, methods=("linear",), shots=(), seeds=1)
    first = evaluate(encoder, scenes(), protocol, out_dir=tmp_path / "a")
    other = {"better": encoder["mine"].reinitialised(5).eval()}
    second = evaluate(other, scenes(), protocol, out_dir=tmp_path / "b")
    report = compare(tmp_path / "a", tmp_path / "b")
    assert report.metrics["paired"]
    rows = {r["row"]: r for r in report.metrics["rows"]}
    assert len(rows) == 3
    statistics = rows["scores / band statistics / linear / 100 %"]
    assert statistics["difference"] == statistics["low"] == statistics["high"] == 0
    mine = rows["scores / better / linear / 100 %"]
    want = second.rows[0].scores["accuracy"] - first.rows[0].scores["accuracy"]
    assert mine["difference"] == pytest.approx(want)
    evaluate(encoder, scenes(wrong=3), replace(protocol, seed=4), out_dir=tmp_path / "c")
    apart = compare(tmp_path / "a", tmp_path / "c")
    assert not apart.metrics["paired"]
    assert apart.metrics["rows"][2]["low"] < apart.metrics["rows"][2]["high"]
    assert not any("different classes" in note for note in apart.notes)
    names = {"class_names": ("w", "x", "y", "z"), "out_dir": tmp_path / "d"}
    evaluate(encoder, scenes(), protocol, **names)
    assert any("different classes" in n for n in compare(tmp_path / "a", tmp_path / "d").notes)
    evaluate(encoder, scenes(), replace(protocol, task="segmentation"), out_dir=tmp_path / "e")
    with pytest.raises(ReportError, match=r"decides by accuracy, .* by miou"):
        compare(tmp_path / "a", tmp_path / "e")
    with pytest.raises(ReportError, match="no complete report"):
        compare(tmp_path / "a", tmp_path / "nowhere")


def test_what_cannot_be_evaluated_is_refused(encoder) -> None:
    one = [s | {"label": torch.tensor(0)} for s in scenes(12)]
    with pytest.raises(LabelError, match="nothing can be told apart"):
        evaluate(encoder, one, QUICK)
    with pytest.raises(TrainingError, match="have no position"):
        evaluate(encoder, [s | {"meta": PatchMeta(id="a")} for s in scenes(12)], QUICK)
    with pytest.raises(TrainingError, match="no encoder"):
        evaluate({}, scenes(), QUICK)
    matrix = replace(QUICK, parts=("scores", "matrix"))
    blind = [{k: v for k, v in s.items() if k != "image_s2"} for s in scenes()]
    with pytest.raises(TrainingError, match="Sentinel-2 observed nothing"):
        evaluate(encoder, blind, matrix)
    optical = {"eye": FusionEncoder("resnet10t", levels=(1,), s1_bands=())}
    with pytest.raises(TrainingError, match="'eye' reads s2 only"):
        evaluate(optical, scenes(), matrix)
    for wrong in ({"parts": ("score",)}, {"methods": ("svm",)}):
        with pytest.raises(UnknownNameError):
            replace(QUICK, **wrong)
