"""`Classifier`: single and multi-label, learning, ignoring, refusing wrong labels."""

import pytest
import torch

from deepsentinel.errors import LabelError, SampleError, UnknownNameError
from deepsentinel.features import Classification, Head
from deepsentinel.heads.classification import HEADS, Classifier

MULTI = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, -1], [0, 0, 0]])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("multilabel", [False, True])
def test_overfits_a_batch(encoder, batch, head, multilabel) -> None:
    if multilabel:
        batch["label"] = MULTI
    model = Classifier(encoder, 3, multilabel, head=head)
    assert isinstance(model.head, Head)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = model.loss(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("mode", [True, False])
def test_predictions(encoder, batch, mode) -> None:
    single = Classifier(encoder, 3).train(mode)(batch["image_s1"])
    assert type(single) is Classification
    assert torch.allclose(single.probabilities.sum(1), torch.ones(4), atol=1e-6)
    assert single.classes.dtype == torch.int64
    multi = Classifier(encoder, 3, multilabel=True).train(mode)(s2=batch["image_s2"])
    assert torch.equal(multi.classes, multi.logits >= 0)
    assert multi.classes.dtype == torch.bool


def test_unknown_labels_count_nothing(encoder, batch) -> None:
    model = Classifier(encoder, 3).eval()
    known = {k: v[:3] for k, v in batch.items()}
    assert torch.allclose(model.loss(batch)["loss"], model.loss(known)["loss"])
    assert model.head.labelled(batch) == 3
    assert model.loss(batch | {"label": torch.full((4,), -1)})["loss"].item() == 0


def test_wrong_labels_are_refused(encoder, batch) -> None:
    single, multi = Classifier(encoder, 3), Classifier(encoder, 3, multilabel=True)
    with pytest.raises(LabelError, match="label holds -2 9, but the model has 3 classes"):
        single.loss(batch | {"label": torch.tensor([0, 9, -2, 1])})
    with pytest.raises(LabelError, match="multilabel=True"):
        single.loss(batch | {"label": MULTI})
    with pytest.raises(LabelError, match="integers are expected"):
        single.loss(batch | {"label": torch.zeros(4)})
    with pytest.raises(LabelError, match="belongs to boxes"):
        single.loss(batch | {"label": [torch.zeros(2)] * 4})
    with pytest.raises(LabelError, match="multilabel=False"):
        multi.loss(batch)
    with pytest.raises(LabelError, match=r"\(4, 3\).*over the model's 3 classes|\(B, 3\)"):
        multi.loss(batch | {"label": torch.zeros(4, 5, dtype=torch.int64)})
    with pytest.raises(LabelError, match="found 0 1 2"):
        multi.loss(batch | {"label": (MULTI + 1)})
    del batch["label"]
    with pytest.raises(SampleError, match="no 'label'"):
        multi.loss(batch)


def test_unknown_head(encoder) -> None:
    with pytest.raises(UnknownNameError, match="linear mlp"):
        Classifier(encoder, 3, head="tree")


def test_one_class_needs_multilabel(encoder) -> None:
    assert Classifier(encoder, 1, multilabel=True).num_classes == 1
    with pytest.raises(LabelError, match="at least 2"):
        Classifier(encoder, 1)
