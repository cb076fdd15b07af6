"""`Classifier`: single and multi-label, learning, ignoring, refusing wrong labels."""

import pytest
import torch

from deepsentinel.errors import LabelError, SampleError, ShapeError, UnknownNameError
from deepsentinel.features import Classification, Features, Head
from deepsentinel.heads import losses
from deepsentinel.heads.classification import HEADS, ClassificationHead, Classifier
from deepsentinel.heads.readout import AttentionPool

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
    with pytest.raises(UnknownNameError, match="linear mlp attention"):
        Classifier(encoder, 3, head="tree")


def test_one_class_needs_multilabel(encoder) -> None:
    assert Classifier(encoder, 1, multilabel=True).num_classes == 1
    with pytest.raises(LabelError, match="at least 2"):
        Classifier(encoder, 1)


@pytest.mark.parametrize("multilabel", [False, True])
def test_focal_and_weights(encoder, batch, multilabel) -> None:
    target = MULTI if multilabel else torch.tensor([0, 1, 2, -1])
    options = {"class_weights": (1.0, 2.0, 0.5), "loss": "focal", "focal_gamma": 1.5}
    model = Classifier(encoder, 3, multilabel, **options).eval()
    loss = losses.binary_focal if multilabel else losses.focal
    weights = torch.tensor(options["class_weights"])
    wanted = loss(model.logits(batch), target, gamma=1.5, class_weights=weights)
    assert torch.allclose(model.loss(batch | {"label": target})["loss"], wanted)


def test_smoothing_without_a_cross_entropy_is_refused(encoder) -> None:
    with pytest.raises(LabelError, match="loss=focal"):
        Classifier(encoder, 3, loss="focal", label_smoothing=0.1)
    with pytest.raises(UnknownNameError, match="'lovasz'"):
        Classifier(encoder, 3, loss="lovasz")


def test_attention_needs_a_map(encoder) -> None:
    encoder.out_channels = ()
    with pytest.raises(ShapeError, match="weighs the cells of a map"):
        Classifier(encoder, 3, head="attention")


def test_attention_is_the_slow_loop() -> None:
    pool, maps = AttentionPool(12, heads=8), torch.randn(2, 12, 3, 4)
    assert pool.heads == 6
    found = pool(maps)
    for b in range(2):
        cells = torch.stack([maps[b, :, i, j] for i in range(3) for j in range(4)])
        cells = (cells - cells.mean(1, keepdim=True)) / (cells.var(1, False)[:, None] + 1e-5).sqrt()
        for h in range(6):
            scores = torch.stack([pool.score(c)[h] for c in cells]).exp()
            mean = sum(s * c[2 * h : 2 * h + 2] for s, c in zip(scores, cells, strict=True))
            assert torch.allclose(found[b, 2 * h : 2 * h + 2], mean / scores.sum(), atol=1e-5)


def test_attention_finds_what_fills_one_cell() -> None:
    """The mean of a map drowns a small object; weights that are learnt do not."""
    head = ClassificationHead(4, 2, head="attention", in_channels=(8,))
    noise, label = torch.randn(64, 8, 8, 8), torch.arange(64) % 2
    places = torch.randint(0, 8, (64, 2))
    for i in range(64):
        noise[i, 0, places[i, 0], places[i, 1]] += 8.0 * label[i]
    features = Features(torch.zeros(64, 4), (noise,), (8,))
    optimiser = torch.optim.Adam(head.parameters(), 3e-2)
    for _ in range(150):
        optimiser.zero_grad()
        head.loss(head(features, (64, 64)), {"label": label})["loss"].backward()
        optimiser.step()
    assert (head(features, (64, 64)).argmax(1) == label).float().mean() > 0.9
