"""The report of a fine-tuning against what it was made from."""

import csv
import json

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from deepsentinel.datasets.augment import Augment
from deepsentinel.errors import SampleError
from deepsentinel.heads.classification import Classifier
from deepsentinel.heads.detection import Detector
from deepsentinel.heads.regression import Regressor
from deepsentinel.training.evaluate import evaluate_model
from deepsentinel.training.finetune import finetune
from deepsentinel.training.finetuning.report import write_finetune_report
from deepsentinel.training.finetuning.sheet import judge, scheme_of, sheet
from deepsentinel.training.reports.report import read_report

HISTORY = [
    {"epoch": 1, "train_loss": 1.2, "val_loss": 1.1, "miou": 0.2, "lr": 1e-3},
    {"epoch": 2, "train_loss": 0.9, "val_loss": 1.0, "miou": 0.3, "lr": 5e-4},
]


def test_it_says_what_evaluation_says(tmp_path, model, samples):
    segmenter, data = model(), samples(5)
    data[1]["image_s1"][:] = float("nan")
    data[1]["image_s2"][:] = float("nan")
    page = write_finetune_report(
        segmenter, data, HISTORY, tmp_path, best_epoch=2, facts={"lr": 1e-3}, batch_size=2
    )
    scores = evaluate_model(segmenter, data)
    stored = json.loads((tmp_path / "report.json").read_text())
    for name in ("miou", "pixel_accuracy"):
        assert stored["metrics"][name] == pytest.approx(scores[name])
    assert stored["metrics"]["per_class"] == pytest.approx(scores["per_class"])
    assert stored["metrics"]["empty"] == 1
    assert stored["facts"] == {"lr": 1e-3}
    kept = [data[i] for i in (0, 2, 3, 4)]
    target = torch.stack([s["mask"] for s in kept])
    found = torch.stack([segmenter.predict(_batch(s)).classes[0] for s in kept])
    counts = [[int(((target == i) & (found == j)).sum()) for j in range(3)] for i in range(3)]
    assert stored["metrics"]["confusion"] == counts
    per_class = read_report(tmp_path).table("per_class")
    assert per_class.column("labelled") == tuple(map(sum, counts))
    np.testing.assert_allclose(
        [np.nan if v is None else v for v in per_class.column("recall")],
        np.diag(counts) / np.sum(counts, 1),
    )
    rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
    assert [float(row["miou"]) for row in rows] == [0.2, 0.3]
    assert page.name == "report.html"
    assert "in epoch 2 of 2" in page.read_text()
    for name in ("curves", "confusion", "sheet"):
        assert imread(tmp_path / f"{name}.png").std() > 0.01


def _batch(sample):
    from deepsentinel.sample import collate

    return collate([sample])


def test_the_best_come_before_the_worst_and_the_unlabelled_not_at_all(model, samples):
    segmenter, data = model(), samples(6)
    data[2]["mask"][:] = -1
    data[3]["image_s1"] = torch.full_like(data[3]["image_s1"], float("nan"))
    data[3]["image_s2"] = torch.full_like(data[3]["image_s2"], float("nan"))
    judged = judge(segmenter, data)
    assert sorted(j.place for j in judged) == [0, 1, 4, 5]
    segmenter.eval()
    with torch.no_grad():
        losses = {j.place: float(segmenter.loss(_batch(data[j.place]))["loss"]) for j in judged}
    assert [j.loss for j in judged] == pytest.approx(sorted(losses.values()))
    assert [losses[j.place] for j in judged] == pytest.approx([j.loss for j in judged])
    assert [j.id for j in judged if j.place == 4] == ["p0-4"]
    assert len(judge(segmenter, samples(9), most=3)) == 3
    assert not segmenter.training


def test_the_sheet_shows_target_and_prediction(model, samples):
    segmenter, data = model(), samples(3)
    figure = sheet(segmenter, data, judge(segmenter, data)[:2], ["best 1", "best 2"])
    assert len(figure.axes) == 2 * 4
    assert [a.get_title() for a in figure.axes[:4]] == [
        "Sentinel-2",
        "Sentinel-1",
        "target",
        "prediction",
    ]
    place = judge(segmenter, data)[1].place
    colours = scheme_of(segmenter).palette
    shown = figure.axes[7].images[0].get_array()
    np.testing.assert_array_equal(
        shown, colours[segmenter.predict(_batch(data[place])).classes[0].numpy()]
    )
    assert "best 1\np0-" in figure.axes[0].texts[0].get_text()
    assert "of pixels right" in figure.axes[0].texts[0].get_text()
    with pytest.raises(SampleError, match="no patch"):
        sheet(segmenter, data, [])


def test_classes_of_patches_are_told_in_words(model, samples, tmp_path):
    classifier = model("classifier")
    data = [{k: v for k, v in s.items() if k != "image_s1"} for s in samples(3)]
    figure = sheet(classifier, data, judge(classifier, data))
    words = figure.axes[0].texts[0].get_text()
    assert "target: " in words
    assert "predicted: " in words
    assert len(figure.axes) == 3
    write_finetune_report(classifier, data, HISTORY, tmp_path, best_epoch=1)
    assert read_report(tmp_path).metrics["accuracy"] == evaluate_model(classifier, data)["accuracy"]


def test_several_classes_a_patch_have_no_confusion_matrix(model, samples, tmp_path):
    classifier = Classifier(model("classifier").encoder, 3, multilabel=True)
    data = samples(4)
    for i, sample in enumerate(data):
        sample["label"] = torch.tensor([1, i % 2, 0])
    write_finetune_report(classifier, data, HISTORY, tmp_path, best_epoch=1)
    report = read_report(tmp_path)
    assert [p.name for p in report.pictures] == ["curves", "sheet"]
    assert report.table("per_class").columns == ("class", "score")
    assert "confusion" not in report.metrics
    words = sheet(classifier, data, judge(classifier, data)).axes[0].texts[0].get_text()
    assert "target: 0" in words


def test_boxes_are_drawn_where_they_are(model, samples):
    detector = Detector(
        model().encoder, 2, channels=32, levels=(4, 8), class_names=("ship", "mill")
    )
    data = [{k: v for k, v in s.items() if k != "mask"} for s in samples(2)]
    for sample in data:
        sample["bbox_xyxy"] = torch.tensor([[2.0, 3.0, 7.0, 6.0]])
        sample["label"] = torch.tensor([1])
    figure = sheet(detector, data, judge(detector, data))
    shown = figure.axes[2].images[0].get_array()
    outline = (shown == scheme_of(detector).palette[1]).all(-1)
    rows, columns = np.nonzero(outline)
    assert (columns.min() + 3, rows.min() + 3) == (2 * 6, 3 * 6)  # around the box, 3 wide
    assert (columns.max() - 2, rows.max() - 2) == (7 * 6, 6 * 6)
    assert not outline[3 * 6 : 6 * 6, 2 * 6 : 7 * 6].any()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mill"]
    assert "1 objects" in figure.axes[0].texts[0].get_text()


def test_quantities_are_drawn_in_the_colours_of_the_target(model, samples, tmp_path):
    regressor = Regressor(model().encoder, 1, decoder="linear", target_names=("height",))
    data = samples(3)
    for sample in data:
        sample["target"] = sample["mask"].float()[None].clone()
        sample["target"][0, sample["mask"] < 0] = float("nan")
    judged = judge(regressor, data)
    figure = sheet(regressor, data, judged[:1])
    known = data[judged[0].place]["target"][0]
    shown = figure.axes[2].images[0].get_array()
    assert (shown[known.isnan().numpy()] == 255).all()
    assert len({tuple(c) for c in shown[known == known.nan_to_num(0).max()]}) == 1
    assert "mean absolute error" in figure.axes[0].texts[0].get_text()
    page = write_finetune_report(regressor, data, HISTORY, tmp_path, best_epoch=2)
    assert "rmse" in page.read_text()


def test_a_fine_tuning_writes_it_once(model, samples, tmp_path):
    train, val = samples(4), samples(3, 1)

    def run():
        options = {"out_dir": tmp_path, "epochs": 2, "freeze_encoder": True, "progress": False}
        return finetune(model(), train, val, augment=Augment(drop_s2=0.5), **options)

    result = run()
    page = tmp_path / "report" / "report.html"
    report = read_report(page.parent)
    assert report.metrics["miou"] == pytest.approx(result.best_score)
    assert report.facts["options"]["lr"] == 1e-3
    assert report.facts["options"]["augment"]["drop_s2"] == 0.5
    assert report.table("history").column("train_loss") == tuple(
        row["train_loss"] for row in result.history
    )
    written = page.stat().st_mtime_ns
    run()
    assert page.stat().st_mtime_ns == written
    page.with_name("report.json").unlink()  # as a kill while it was written would
    run()
    assert page.stat().st_mtime_ns > written
