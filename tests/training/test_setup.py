"""Setup: the label that a task means, and a model with its classes."""

import pytest

from deepsentinel.corpus.format import CorpusInfo, LabelSpec
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import DeepSentinelError, LabelError, UnknownNameError
from deepsentinel.heads.classification import Classifier
from deepsentinel.heads.detection import Detector
from deepsentinel.heads.regression import Regressor
from deepsentinel.heads.segmentation import Segmenter
from deepsentinel.labels import scheme
from deepsentinel.training.finetuning.setup import model_for, pick_label

COVER = LabelSpec("cover", "mask", scheme("worldcover"))
OTHER = LabelSpec("other", "mask", scheme("corine-1"))
KIND = LabelSpec("kind", "label", scheme("corine-1"))
TAGS = LabelSpec("tags", "multilabel", scheme("bigearthnet-19"))
OBJECTS = LabelSpec("objects", "boxes", scheme("osm"))
HEIGHT = LabelSpec("height", "target", channels=("m",))


def info(*labels: LabelSpec) -> CorpusInfo:
    return CorpusInfo(
        name="some",
        sensors=("s1",),
        bands={"s1": ("VV",)},
        patch_size=32,
        resolution_m=10,
        labels=labels,
    )


@pytest.fixture(scope="module")
def encoder() -> FusionEncoder:
    return FusionEncoder("resnet10t")


def test_the_only_fitting_label_is_picked():
    all_kinds = info(COVER, KIND, HEIGHT)
    assert pick_label(all_kinds, "segmentation") == COVER
    assert pick_label(all_kinds, "classification") == KIND
    assert pick_label(info(TAGS), "classification") == TAGS


def test_boxes_are_for_a_detector(encoder):
    assert pick_label(info(COVER, OBJECTS), "detection") == OBJECTS
    model = model_for(encoder, OBJECTS)
    assert isinstance(model, Detector)
    assert model.class_names == scheme("osm").names


def test_several_need_a_name():
    with pytest.raises(LabelError, match=r"cover other\. Name one"):
        pick_label(info(COVER, OTHER), "segmentation")
    assert pick_label(info(COVER, OTHER), "segmentation", "other") == OTHER


@pytest.mark.parametrize(
    ("task", "name", "words"),
    [
        ("segmentation", None, r"'some' has these labels for segmentation: \(none\)"),
        ("segmentation", "kind", "'kind' was asked for"),
        ("classification", "height", "for classification: kind"),
    ],
)
def test_what_does_not_fit_is_an_error_that_lists_what_does(task, name, words):
    with pytest.raises(LabelError, match=words):
        pick_label(info(KIND, HEIGHT), task, name)


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"'segmentation'.*classification"):
        pick_label(info(COVER), "segmentaton")


def test_a_model_has_the_classes_of_its_label(encoder):
    model = model_for(encoder, COVER, decoder="linear")
    assert isinstance(model, Segmenter)
    assert model.class_names == scheme("worldcover").names
    assert model.class_colours == scheme("worldcover").colours
    for label, many in ((KIND, False), (TAGS, True)):
        model = model_for(encoder, label)
        assert isinstance(model, Classifier)
        assert model.multilabel is many
        assert model.class_names == label.scheme.names


def test_what_has_no_classes_gets_no_model(encoder):
    with pytest.raises(LabelError, match="'bare' has no class scheme"):
        model_for(encoder, LabelSpec("bare", "mask"))


def test_a_target_gets_a_regressor_of_its_quantities(encoder):
    assert pick_label(info(COVER, HEIGHT), "regression") == HEIGHT
    model = model_for(encoder, HEIGHT, decoder="linear", target_mean=(20.0,), target_std=(5.0,))
    assert isinstance(model, Regressor)
    assert (model.target_names, model.per_pixel) == (("m",), True)
    assert model.options["target_mean"] == [20.0]
    whole = LabelSpec("yield", "target", channels=("t", "ha"), per_pixel=False)
    assert model_for(encoder, whole).num_targets == 2
    assert not model_for(encoder, whole).per_pixel


def test_a_target_is_no_classification(encoder):
    """Even with classes: a model of classes would be trained on what it cannot read."""
    height = LabelSpec("things", "target", scheme("worldcover"), channels=("m",))
    assert isinstance(model_for(encoder, height, decoder="linear"), Regressor)


def test_an_unknown_decoder_lists_the_known_ones(encoder):
    with pytest.raises(DeepSentinelError, match="unet"):
        model_for(encoder, COVER, decoder="unett")
