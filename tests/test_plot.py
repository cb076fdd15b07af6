"""Pictures: exact colours for exact values, white where nothing was observed, no torch."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib import colormaps

from deepsentinel import plot
from deepsentinel.errors import BandError, LabelError, SampleError
from deepsentinel.labels import scheme


def test_rgb_takes_its_bands_wherever_they_are(rng):
    image = rng.random((3, 8, 8)).astype(np.float32)
    order = ("B02", "B08", "B04", "B03")
    shuffled = np.stack([image[2], rng.random((8, 8)), image[0], image[1]])
    assert np.array_equal(plot.rgb(shuffled, order), plot.rgb(image, ("red", "green", "blue")))


def test_rgb_stretches_between_percentiles_of_what_is_observed(rng):
    image = rng.uniform(0.05, 0.35, (3, 64, 64)).astype(np.float32)
    image[:, :8] = np.nan
    image[1, 20, 20] = np.nan
    picture = plot.rgb(image, plot.RGB_BANDS)
    low, high = np.nanpercentile(image, [2, 98])
    expected = np.rint(255 * np.clip((image - low) / (high - low), 0, 1)).transpose(1, 2, 0)
    observed = np.isfinite(image).all(0)
    assert picture.dtype == np.uint8
    assert np.abs(picture[observed].astype(float) - expected[observed]).max() <= 1
    assert (picture[~observed] == 255).all()


def test_rgb_of_something_dim_stays_dim_and_of_nothing_is_white():
    dim = np.full((3, 8, 8), 0.02, np.float32)
    dim[:, 0] = 0.03
    assert plot.rgb(dim, plot.RGB_BANDS).max() < 40
    assert (plot.rgb(dim * np.nan, plot.RGB_BANDS) == 255).all()


def test_rgb_without_its_bands():
    with pytest.raises(BandError, match="B03 B02 missing"):
        plot.rgb(np.zeros((2, 4, 4)), ("B04", "B08"))


def test_sar_composite():
    db = np.array([[[-25.0, 0.0, np.nan]], [[-32.0, -5.0, -20.0]]])
    picture = plot.sar_composite(db)
    assert picture[0, 0].tolist() == [0, 0, round(255 * 7 / 15)]
    assert picture[0, 1].tolist() == [255, 255, round(255 * 5 / 15)]
    assert picture[0, 2].tolist() == [255, 255, 255]
    assert np.array_equal(plot.sar_composite(db[::-1], ("VH", "VV")), picture)


@pytest.mark.parametrize(("band", "limits"), [("VV", (-25, 0)), ("VH", (-32, -5))])
def test_one_radar_band_is_grey(band, limits):
    picture = plot.sar_composite(np.array([[limits]], dtype=float), (band,))
    assert picture[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_mask_image():
    worldcover = scheme("worldcover")
    ids = np.arange(-1, len(worldcover)).reshape(2, -1)
    picture = plot.mask_image(ids, worldcover).reshape(-1, 3)
    assert picture[0].tolist() == [255, 255, 255]
    assert np.array_equal(picture[1:], worldcover.palette)
    with pytest.raises(LabelError, match="ids 0 to 99"):
        plot.mask_image(np.array([[0, 99]]), worldcover)


def test_value_image(rng):
    values = rng.normal(size=(4, 5)) * 3 + 300
    values[1, 2] = np.nan
    picture = plot.value_image(values)
    assert picture[1, 2].tolist() == list(plot.UNOBSERVED)
    low, high = np.nanmin(values), np.nanmax(values)
    wanted = colormaps["viridis"]((values[0] - low) / (high - low), bytes=True)[:, :3]
    assert np.abs(picture[0].astype(int) - wanted.astype(int)).max() <= 1
    beyond = plot.value_image(np.array([[0.0, 1.0, 2.0, 3.0]]), (1.0, 2.0))[0]
    assert (beyond[0] == beyond[1]).all()
    assert (beyond[2] == beyond[3]).all()
    assert (plot.value_image(np.full((2, 2), np.nan)) == 255).all()
    assert len(np.unique(plot.value_image(np.full((2, 2), 7.0)).reshape(-1, 3), axis=0)) == 1


def test_patch_figure(tmp_path):
    grey = np.full((8, 8, 3), 99, np.uint8)
    worldcover = scheme("worldcover")
    figure = plot.patch_figure(
        {"one": grey, "two": grey},
        scheme=worldcover,
        classes=(0, 7),
        boxes=[plot.Boxes(np.array([[0.0, 0.0, 4.0, 8.0]]), (7,), worldcover)],
        suptitle="title",
    )
    assert [a.get_title() for a in figure.axes] == ["one", "two"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        worldcover.names[0],
        worldcover.names[7],
        worldcover.names[7],
    ]
    line = figure.axes[1].lines[0]
    assert line.get_color() == worldcover.colours[7]
    assert (line.get_xdata().min(), line.get_xdata().max()) == (-0.5, 3.5)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    with pytest.raises(SampleError, match="nothing to plot"):
        plot.patch_figure({})


def test_predicted_boxes_are_told_from_true_ones():
    corners, corine = np.array([[1.0, 2.0, 4.0, 6.0]]), scheme("corine-1")
    figure = plot.patch_figure(
        {"one": np.full((8, 8, 3), 99, np.uint8)},
        boxes=[
            plot.Boxes(corners, (1,), corine),
            plot.Boxes(corners + 1, (2,), corine, scores=(0.75,)),
            plot.Boxes(corners),
        ],
    )
    true, predicted, unnamed = figure.axes[0].lines
    assert (true.get_linestyle(), predicted.get_linestyle()) == ("-", ":")
    assert (true.get_color(), predicted.get_color()) == corine.colours[1:3]
    assert unnamed.get_color() not in corine.colours
    assert predicted.get_ydata().tolist() == [2.5, 2.5, 6.5, 6.5, 2.5]
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.75"]
    words = [t.get_text() for t in figure.legends[0].get_texts()]
    assert words == [corine.names[1], f"{corine.names[2]}, predicted"]


def test_plotting_imports_no_torch():
    code = "import sys, deepsentinel.plot; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
