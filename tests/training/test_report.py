"""Reports: what is written reads back, the page is whole and asks nobody, wrong parts are refused."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from deepsentinel.errors import ReportError
from deepsentinel.plot import sheet_figure
from deepsentinel.training.reports.figures import confusion_figure, curves_figure, intervals_figure
from deepsentinel.training.reports.report import Picture, Report, Table, read_report


def report() -> Report:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    rows = [{"class": "wheat | maize", "f1": 1 / 3}, {"class": "<b>", "f1": float("nan")}]
    return Report(
        title="Crops & more",
        metrics={"f1": np.float32(0.5), "bad": float("inf"), "all": torch.tensor([1, 2])},
        facts={"seeds": (0, 1), "data": {"patches": 3}},
        tables=(Table.of("per_class", rows, note="Two classes."),),
        pictures=(Picture.of("line", figure, title="A line"),),
        notes=("One <seed>.",),
    )


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.open, self.cells = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in {"src", "href", "srcset", "action", "data"}]
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in {"td", "th", "p"}:
            self.cells.append(data)


def test_every_file_holds_the_same_and_reads_back(tmp_path):
    page = report().write(tmp_path / "deep" / "folder")
    folder = page.parent
    assert sorted(p.name for p in folder.iterdir()) == [
        "line.png",
        "per_class.csv",
        "report.html",
        "report.json",
    ]
    stored = json.loads((folder / "report.json").read_text())
    assert stored["metrics"] == {"f1": 0.5, "bad": None, "all": [1, 2]}
    rows = list(csv.reader(io.StringIO((folder / "per_class.csv").read_text())))
    assert rows == [["class", "f1"], ["wheat | maize", str(1 / 3)], ["<b>", ""]]
    drawn = imread(folder / "line.png")
    np.testing.assert_allclose(drawn.shape[:2], (100, 200), atol=30)  # 2 x 1 inches and its text
    assert drawn.min() < 0.5
    again = read_report(folder)
    assert again.to_json() == report().to_json()
    assert again.pictures == report().pictures
    assert again.write(tmp_path / "again").read_bytes() == page.read_bytes()


def test_the_page_is_well_formed_escaped_and_asks_nobody(tmp_path):
    text = report().write(tmp_path).read_text()
    page = Page(text)
    assert page.open == []
    assert {"script", "link", "iframe"}.isdisjoint(page.tags)
    assert "b" not in page.tags
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    written = re.sub('base64,[^"]*', "", text)
    assert not any(word in written for word in ("//", "url(", "@import"))
    numbers = ["class", "f1", "wheat | maize", "0.333", "<b>", "-"]
    assert page.cells == ["One <seed>.", *numbers, "Two classes."]


def test_text_is_markdown_of_rounded_values():
    assert report().text().splitlines() == [
        "Crops & more",
        "",
        "One <seed>.",
        "",
        "| class          | f1    |",
        "|----------------|-------|",
        "| wheat \\| maize | 0.333 |",
        "| <b>            | -     |",
        "Two classes.",
    ]


def test_parts_that_cannot_be_are_refused():
    with pytest.raises(ReportError, match="row of 1 values"):
        Table(name="a", columns=("x", "y"), rows=((1,),))
    with pytest.raises(ReportError, match="becomes a file name"):
        Table(name="../a", columns=("x",), rows=())
    table = Table(name="a", columns=("x",), rows=())
    with pytest.raises(ReportError, match="several tables of one name: \\['a'\\]"):
        Report(title="double", tables=(table, table))
    with pytest.raises(ReportError, match="no column 'y'"):
        table.column("y")
    with pytest.raises(ReportError, match="no table 'b'"):
        Report(title="one", tables=(table,)).table("b")
    with pytest.raises(ReportError, match="of type object"):
        Report(title="odd", metrics={"x": object()}).to_json()


def test_what_is_no_report_says_so(tmp_path):
    with pytest.raises(ReportError, match="holds no complete report"):
        read_report(tmp_path)
    report().write(tmp_path)
    (tmp_path / "line.png").unlink()
    with pytest.raises(ReportError, match=r"line\.png"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ReportError, match="damaged"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"format_version": 99}')
    with pytest.raises(ReportError, match="format 99"):
        read_report(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ReportError, match="could not be written"):
        report().write(tmp_path / "file")


def test_a_picture_holds_all_of_a_long_caption():
    """Text beside axes: the outermost pixels of the picture are empty, so that none was cut off."""
    rows = [{"image": np.full((8, 8, 3), 127, np.uint8)}]
    figure = sheet_figure(rows, captions=["W" * 60 + "\n" + "a wide line of text, " * 3])
    pixels = imread(io.BytesIO(Picture.of("sheet", figure).png))[..., :3]
    assert (pixels[:, :3] == 1).all()
    assert (pixels < 0.5).any()


def test_curves_leave_gaps_and_mark_the_best():
    rows = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "miou": 0.4}]
    figure = curves_figure(rows, {"Loss": ["loss"], "Scores": ["miou"]}, mark=2)
    loss, scores = figure.axes
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), [2.0, 1.0])
    np.testing.assert_array_equal(scores.lines[0].get_ydata(), [np.nan, 0.4])
    assert list(loss.lines[1].get_xdata()) == [2, 2]
    with pytest.raises(ReportError, match="0 rows"):
        curves_figure([], {"Loss": ["loss"]})


def test_a_confusion_matrix_shows_shares_of_the_target():
    figure = confusion_figure(torch.tensor([[3, 1], [0, 0]]), ["a", "b"])
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown.filled(np.nan), [[0.75, 0.25], [np.nan, np.nan]])
    assert len(confusion_figure(np.eye(20, dtype=int), list("abcdefghijklmnopqrst")).axes) == 2
    with pytest.raises(ReportError, match="2 by 2"):
        confusion_figure([[1]], ["a", "b"])


def test_intervals_are_drawn_in_order_and_beside_each_other():
    curve = {200.0: (0.7, 0.6, 0.8), 20.0: (0.5, 0.4, 0.6)}
    panels = {"linear": {"a": curve, "b": curve}, "knn": {"b": curve}}
    figure = intervals_figure(panels, x="labels", y="mAP")
    first, second = (axis.lines[0].get_xydata() for axis in figure.axes)
    np.testing.assert_allclose(first, [[19.1, 0.5], [199.1, 0.7]])  # a half percent to the left
    np.testing.assert_allclose(second, [[20.9, 0.5], [200.9, 0.7]])
    assert figure.axes[0].lines[1].get_color() == figure.axes[1].lines[0].get_color()
    bars = [path.vertices[:, 1].tolist() for path in figure.axes[0].collections[0].get_paths()]
    assert bars == [[0.4, 0.6], [0.6, 0.8]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    with pytest.raises(ReportError, match="no score"):
        intervals_figure({}, x="labels", y="mAP")


@pytest.mark.parametrize("log", [True, False])
def test_labels_of_ticks_do_not_overlap(log):
    places = (1.0, 5.5, 8.0, 27.8, 28.0, 55.6)
    curve = dict.fromkeys(places, (0.5, 0.4, 0.6))
    panels = {"linear": {"nano": curve}, "knn": {"nano": curve}}
    figure = intervals_figure(panels, x="labels", y="mAP", log=log)
    figure.canvas.draw()
    for axis in figure.axes:
        boxes = [tick.get_window_extent() for tick in axis.get_xticklabels()]
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
        assert axis.get_xticklabels()[-1].get_text() == "55.6"
    (legend,) = figure.legends
    assert legend.get_window_extent().y1 < figure.axes[0].get_window_extent().y0
