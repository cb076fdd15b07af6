"""Features and predictions: frozen, movable, and leaves of torch's trees."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from deepsentinel.features import Classification, Encoder, Features, Prediction, Segmentation


def features() -> Features:
    return Features(torch.randn(2, 8), (torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)), (4, 8))


def test_tree_round_trip():
    given = features()
    leaves, spec = pytree.tree_flatten(given)
    assert [tuple(leaf.shape) for leaf in leaves] == [(2, 8), (2, 4, 8, 8), (2, 6, 4, 4)]
    again = pytree.tree_unflatten(leaves, spec)
    assert isinstance(again, Features)
    assert isinstance(again.maps, tuple)
    assert again.strides == (4, 8)
    assert again.maps[1] is given.maps[1]
    doubled = pytree.tree_map(lambda x: 2 * x, given)
    torch.testing.assert_close(doubled.maps[0], 2 * given.maps[0])


class Net(nn.Module):
    """The least that makes features."""

    def forward(self, x):
        return Features(x.mean((2, 3)), (x, x[..., ::2, ::2]), (1, 2))


def test_features_leave_an_exported_and_saved_graph_whole(tmp_path):
    exported = torch.export.export(Net(), (torch.zeros(1, 3, 8, 8),))
    torch.export.save(exported, tmp_path / "net.pt2")
    x = torch.randn(1, 3, 8, 8)
    found = torch.export.load(tmp_path / "net.pt2").module()(x)
    assert isinstance(found, Features)
    assert found.strides == (1, 2)
    torch.testing.assert_close(found.embedding, x.mean((2, 3)))


def test_features_are_frozen_and_move():
    given = features()
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.embedding = torch.zeros(1)
    moved = given.to(torch.float64)
    assert moved.embedding.dtype == moved.maps[1].dtype == torch.float64
    assert given.embedding.dtype == torch.float32
    assert given.to("meta").maps[0].device.type == "meta"


@pytest.mark.parametrize("kind", [Classification, Segmentation])
def test_predictions_are_frozen_and_move_whole(kind):
    logits = torch.randn(2, 3, 4, 4)
    given = kind(logits, logits.softmax(1), logits.argmax(1))
    moved = given.to("meta")
    assert type(moved) is kind
    assert isinstance(moved, Prediction)
    assert {f.name for f in dataclasses.fields(kind)} == {"logits", "probabilities", "classes"}
    for field in dataclasses.fields(kind):
        assert getattr(moved, field.name).device.type == "meta"
        assert getattr(moved, field.name).shape == getattr(given, field.name).shape
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.logits = logits


def test_the_fusion_encoder_is_an_encoder_and_a_layer_is_none():
    from deepsentinel.encoders.fusion import FusionEncoder

    assert isinstance(FusionEncoder("resnet10t"), Encoder)
    assert not isinstance(nn.Linear(1, 1), Encoder)
