"""`Detector`: every method on every pyramid, its losses, learning, borders, empty and crowded patches."""

import math

import pytest
import torch
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator

from deepsentinel import FusionEncoder, load_model
from deepsentinel.encoders.galileo import GalileoEncoder
from deepsentinel.errors import (
    ExportError,
    LabelError,
    SampleError,
    ShapeError,
    UnknownNameError,
)
from deepsentinel.features import Detection
from deepsentinel.heads.assignment import cover_cell, match_cells, peaks
from deepsentinel.heads.boxes import grid_anchors
from deepsentinel.heads.dense import Found, focal
from deepsentinel.heads.detection import METHODS, Detector
from deepsentinel.training.scoring.detection import DetectionScores

PYRAMIDS = [
    ((4, 8, 16, 32), (8, 8, 16, 16)),
    ((16, 16, 16), (12, 12, 12)),
    ((14,), (8,)),
    ((1, 4), (6, 8)),
]


def planted(boxes, labels, size=(24, 24), seed=0):
    """A batch whose objects are bright in one band by their class."""
    g = torch.Generator().manual_seed(seed)
    s2 = 0.05 + 0.02 * torch.rand(len(boxes), 12, *size, generator=g)
    for i, (own, classes) in enumerate(zip(boxes, labels, strict=True)):
        for (x0, y0, x1, y1), k in zip(own, classes, strict=True):
            s2[i, k, y0:y1, x0:x1] = 0.6
    return {
        "image_s2": s2,
        "bbox_xyxy": [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in boxes],
        "label": [torch.tensor(n, dtype=torch.int64) for n in labels],
    }


@pytest.fixture
def batch():
    """A patch with three objects, two of them at borders; an empty one; a crowded one."""
    crowd = [(x, y, x + 4, y + 3) for x in range(1, 20, 6) for y in range(1, 20, 5)]
    return planted(
        [[(5, 6, 12, 10), (20, 0, 24, 5), (0, 19, 6, 24)], [], crowd],
        [[0, 1, 0], [], [0, 1] * (len(crowd) // 2)],
    )


def train(model, batch, steps, lr=3e-3):
    optimiser = torch.optim.AdamW(model.parameters(), lr)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = model.loss(batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("strides", "channels"), PYRAMIDS)
def test_any_pyramid_and_size_trains_and_predicts(make_encoder, method, strides, channels):
    model = Detector(make_encoder(strides, channels), 3, method, channels=32, score_threshold=0.0)
    for size in [(45, 23), (16, 50)][: 1 + (method == "centre")]:
        given = planted([[(2, 3, 6, 9)], []], [[2], []], size)
        losses = model.loss(given)
        losses["loss"].backward()
        parts = sum(v for k, v in losses.items() if k != "loss")
        assert torch.isclose(losses["loss"].detach(), parts)
        found = model.predict(given)
        assert type(found) is Detection
        for boxes, scores, labels in zip(found.boxes, found.scores, found.labels, strict=True):
            assert boxes.shape == (len(scores), 4)
            assert len(scores) == len(labels) > 0
            assert labels.min() >= 0
            assert labels.max() <= 2
            assert boxes.min() >= 0
            assert boxes[:, 2].max() <= size[1]
            assert boxes[:, 3].max() <= size[0]
            assert bool((scores.diff() <= 0).all())
    assert all(p.grad is not None for p in model.head.parameters())  # none lies idle


@pytest.mark.parametrize("method", METHODS)
def test_learns_crowded_empty_and_bordering_patches(make_encoder, batch, method):
    torch.manual_seed(0)
    model = Detector(make_encoder((2, 4), (16, 16)), 2, method, channels=32, levels=(2, 4))
    losses = train(model, batch, 50)
    assert losses[-1] < 0.5 * losses[0]
    found = model.predict(batch)
    scores = DetectionScores(model.class_names)
    scores.update(found, batch)
    assert scores.compute()["ap50"] > 0.85
    alarms = found.scores[1]  # the empty patch has nothing that looks like anything
    assert not len(alarms) or alarms.max() < 0.3


@pytest.mark.parametrize("method", METHODS)
def test_train_and_use_see_the_same_tensors(make_encoder, batch, method):
    """Nothing is resized, normalised or padded in front of the encoder, nor is the head another."""
    model = Detector(make_encoder(), 2, method, channels=32)
    seen, maps = [], []
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args))
    model.head.pyramid.register_forward_hook(lambda _, args, out: maps.append(out))
    for part in model.modules():  # what differs by design between the modes
        part.train(mode=not isinstance(part, torch.nn.BatchNorm2d | torch.nn.Dropout2d))
    size = batch["image_s2"].shape
    with torch.no_grad():
        model.loss(batch)
    model.predict(batch)
    for _, image in seen:
        assert image is batch["image_s2"] or torch.equal(image, batch["image_s2"])
        assert image.shape == size
    assert len(seen) == len(maps) == 2
    for a, b in zip(*maps, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_can_be_had_in_either_mode(make_encoder, batch, method):
    model = Detector(make_encoder(), 2, method, channels=32)
    model.encoder.eval()
    values = []
    for mode in (True, False):
        model.head.train(mode)
        torch.manual_seed(3)  # Faster R-CNN draws which anchors count
        values.append(model.loss(batch)["loss"].item())
    assert values[0] == values[1]


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded_finds_the_same(tmp_path, method):
    encoder = FusionEncoder("resnet10t", levels=(1, 2))
    model = Detector(
        encoder, 2, method, channels=32, levels=(4, 8), class_names=("ship", "car"),
        class_colours=("#ff0000", "#00ff00"), score_threshold=0.0, max_detections=7,
    ).eval()  # fmt: skip
    again = load_model(model.save_pretrained(tmp_path))
    assert again.class_names == ("ship", "car")
    image = torch.full((1, 2, 32, 32), -12.0) + torch.randn(1, 2, 32, 32)
    with torch.no_grad():
        a, b = model(s1=image), again(s1=image)
    assert 0 < len(a.boxes[0]) <= 7
    assert torch.equal(a.boxes[0], b.boxes[0])
    assert torch.equal(a.labels[0], b.labels[0])


def crowded(strides, least=3):
    """Nine boxes of at least so many pixels and a patch without any; maps of 32 channels for both."""
    g = torch.Generator().manual_seed(1)
    corner = torch.rand(9, 2, generator=g) * 30
    boxes = torch.cat((corner, corner + least + 20 * torch.rand(9, 2, generator=g)), 1)
    targets = [
        {"boxes": boxes, "labels": torch.randint(0, 3, (9,), generator=g)},
        {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return targets, [torch.randn(2, 32, 64 // s, 64 // s, generator=g) for s in strides]


def test_fcos_loss_is_torchvisions(make_encoder):
    """Boxes that hold a middle of a cell and fit a level, so that our two additions say nothing."""
    strides, size = (8, 16, 32), (64, 64)
    model = Detector(
        make_encoder(strides, (8, 8, 8)), 3, "fcos", channels=32, levels=strides
    ).eval()
    targets, maps = crowded(strides, least=13)
    method = model.head.method
    found = method(maps, size)
    ours = method.loss(found, targets)

    backbone = torch.nn.Identity()
    backbone.out_channels = 32
    reference = FCOS(
        backbone, 3, anchor_generator=AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * 3)
    )
    reference.head = method.head
    theirs = reference.compute_loss(
        targets, found.outputs, [found.anchors] * 2, list(found.per_level)
    )
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value), name
        assert value > 0


def test_retinanet_loss_and_boxes_are_torchvisions(make_encoder):
    strides = (4, 8, 16)
    model = Detector(make_encoder(strides, (8, 8, 8)), 3, "retinanet", channels=32, levels=strides)
    method = model.eval().head.method
    targets, maps = crowded(strides)
    found = method(maps, (64, 64))
    backbone = torch.nn.Identity()
    backbone.out_channels = 32
    reference = RetinaNet(
        backbone, 3, score_thresh=0.011, detections_per_img=40, topk_candidates=10**6
    )
    reference.head = method.head
    theirs = reference.compute_loss(targets, found.outputs, [found.anchors] * 2)
    ours = method.loss(found, targets)
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value), name
    counts = list(found.per_level)
    split = {k: list(v.split(counts, 1)) for k, v in found.outputs.items()}
    detections = reference.postprocess_detections(
        split, [list(found.anchors.split(counts))] * 2, [(64, 64)] * 2
    )
    object.__setattr__(method.selection, "score_threshold", 0.011)
    object.__setattr__(method.selection, "max_detections", 40)
    object.__setattr__(method.selection, "candidates", 10**6)
    decoded = method.decode(found)
    assert len(decoded.scores[0]) == 40
    for i in range(2):
        assert torch.allclose(decoded.scores[i], detections[i]["scores"])
        assert torch.allclose(decoded.boxes[i], detections[i]["boxes"])


def test_faster_rcnn_losses_and_boxes_are_torchvisions(make_encoder):
    """Our steps against the whole stages of torchvision, in the mode that each of them needs."""
    strides = (4, 8, 16)
    model = Detector(make_encoder(strides, (8,) * 3), 3, "faster-rcnn", channels=32, levels=strides)
    method = model.eval().head.method
    targets, maps = crowded(strides)
    found = method(maps, (64, 64))
    torch.manual_seed(5)  # which anchors and proposals count is drawn
    ours = method.loss(found, targets)
    decoded = method.decode(found)

    images = ImageList(torch.zeros(2, 3, 64, 64), [(64, 64)] * 2)
    named = {str(i): m for i, m in enumerate(maps)}
    shifted = [t | {"labels": t["labels"] + 1} for t in targets]
    method.rpn.anchor_generator = lambda *_: [found.anchors] * 2
    method.train()
    torch.manual_seed(5)
    proposals, first = method.rpn(images, named, shifted)
    _, second = method.roi(named, proposals, images.image_sizes, shifted)
    theirs = [*first.values(), *second.values()]
    wanted = ("objectness", "proposal_regression", "classification", "bbox_regression")
    for name, value in zip(wanted, theirs, strict=True):
        assert torch.allclose(ours[name], value), name
        assert value > 0
    method.eval()
    proposals, _ = method.rpn(images, named)
    detections, _ = method.roi(named, proposals, images.image_sizes)
    for i, detection in enumerate(detections):
        assert len(detection["boxes"]) > 5
        assert torch.allclose(decoded.boxes[i], detection["boxes"])
        assert torch.allclose(decoded.scores[i], detection["scores"])
        assert torch.equal(decoded.labels[i], detection["labels"] - 1)


def test_every_box_is_somebodys_however_small_or_thin():
    """Boxes of one pixel at every place, and long thin ones, get a cell that is told to find them."""
    levels = [
        grid_anchors((32 // s, 32 // s), s, (float(s),), like=torch.zeros(1)) for s in (2, 4, 8)
    ]
    anchors, counts = torch.cat(levels), tuple(map(len, levels))
    for x in range(0, 31, 3):
        for width, height in ((1, 1), (2, 2), (1, 28), (30, 2)):
            box = torch.tensor([[x, 2, min(32, x + width), 2 + height]], dtype=torch.float32)
            grown = cover_cell(box, levels[0])
            matched = match_cells(grown, anchors, counts)
            assert (matched == 0).any(), box
            assert (grown[:, :2] <= box[:, :2]).all()
            assert (grown[:, 2:] >= box[:, 2:]).all()
            assert (grown - box).abs().max() <= 1.5
            middle = (anchors[matched == 0][:, :2] + anchors[matched == 0][:, 2:]) / 2
            assert (middle > grown[:, :2]).all()
            assert (middle < grown[:, 2:]).all()


def test_peaks_are_those_of_a_slow_loop():
    middles = torch.tensor([[3.4, 2.2], [7.9, 8.0], [3.0, 5.0]])
    lengths = torch.tensor([[6.0, 2], [12, 1], [1, 1]])
    heat = peaks(middles, lengths, (8, 9))
    assert heat.shape == (3, 8, 9)
    for i, ((x, y), (w, h)) in enumerate(zip(middles.tolist(), lengths.tolist(), strict=True)):
        for row in range(8):
            for column in range(9):
                across = (column - min(int(x), 8)) / max(w / 6, 1 / 3)
                down = (row - min(int(y), 7)) / max(h / 6, 1 / 3)
                value = math.exp(-(across**2 + down**2) / 2)
                assert heat[i, row, column].item() == pytest.approx(value, abs=1e-5)
    assert (heat == 1).sum() == 3


def test_focal_is_that_of_a_slow_loop():
    g = torch.Generator().manual_seed(0)
    logits, wanted = torch.randn(40, generator=g), torch.rand(40, generator=g)
    wanted[::7] = 1
    total = 0.0
    for x, t in zip(logits.double(), wanted.double(), strict=True):
        p = 1 / (1 + torch.exp(-x))
        total -= (1 - p) ** 2 * torch.log(p) if t == 1 else (1 - t) ** 4 * p**2 * torch.log(1 - p)
    assert focal(logits, wanted).item() == pytest.approx(float(total), rel=1e-5)


def test_centre_reads_back_the_boxes_that_it_is_told(make_encoder):
    """Outputs set to what the loss asks for cost nothing and decode to the boxes themselves."""
    model = Detector(make_encoder(), 2, "centre", channels=32)
    boxes = torch.tensor([[3.0, 4, 6, 6], [20, 1, 32, 8], [0, 30, 2, 32], [9, 9, 10.5, 12]])
    labels = torch.tensor([0, 1, 0, 1])
    method = model.head.method
    found = method([torch.zeros(1, 32, 16, 16)], (32, 32))
    column, row = ((boxes[:, :2] + boxes[:, 2:]) / 4).long().unbind(1)
    heat = torch.full((1, 2, 16, 16), -20.0)
    heat[0, labels, row, column] = 20
    heat[0, 0, 12, 3] = -2.0  # less sure, of a class of its own and beside no other
    middles = ((found.anchors[:, :2] + found.anchors[:, 2:]) / 2).reshape(16, 16, 2)
    own = torch.cdist(middles.flatten(0, 1), (boxes[:, :2] + boxes[:, 2:]) / 2).argmin(1)
    wanted = boxes[own].reshape(16, 16, 4)
    sides = torch.cat((middles - wanted[..., :2], wanted[..., 2:] - middles), -1) / 2
    box = sides.clamp(min=1e-6).expm1().log().permute(2, 0, 1)[None]  # back through softplus
    told = Found({"heat": heat, "box": box}, found.anchors, found.per_level, (32, 32))
    losses = method.loss(told, [{"boxes": boxes, "labels": labels}])
    assert losses["bbox_regression"] < 0.3  # cells beside a box of a pixel cannot reach over it
    decoded = method.decode(told)
    assert decoded.labels[0].tolist().count(0) == 3
    sure = decoded.scores[0] > 0.9
    order = decoded.boxes[0][sure][:, 0].argsort()
    assert torch.allclose(decoded.boxes[0][sure][order], boxes[boxes[:, 0].argsort()], atol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_boxes_upon_one_another_cost_a_finite_loss(make_encoder, method):
    """Of two boxes with one centre, or twice the same, one may have no cell of its own."""
    boxes = [(5, 5, 7, 7), (4, 4, 9, 9), (4, 4, 9, 9), (1, 1, 23, 23)]
    batch = planted([boxes, boxes[:2]], [[0, 0, 1, 1], [0, 1]])
    model = Detector(make_encoder(), 2, method, channels=32)
    model.loss(batch)["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.head.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_works_in_bfloat16(make_encoder, batch, method):
    model = Detector(make_encoder(), 2, method, channels=32)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.loss(batch)
        found = model.predict(batch)
    assert torch.isfinite(losses["loss"])
    losses["loss"].backward()
    assert found.boxes[0].dtype == torch.float32


def test_what_does_not_fit_is_refused(make_encoder, batch, tmp_path):
    with pytest.raises(UnknownNameError, match=r"'fcoss'.*fcos"):
        Detector(make_encoder(), 2, "fcoss")
    with pytest.raises(ShapeError, match="multiple of 32"):
        Detector(make_encoder(), 2, channels=40)
    for levels in ((), (2, 8), (3, 6), (4, 2)):
        with pytest.raises(ShapeError, match="twice the one before"):
            Detector(make_encoder(), 2, levels=levels)
    model = Detector(make_encoder(), 1)  # one class is enough: there is the ground beside it
    with pytest.raises(LabelError, match="ids 0 to 0"):
        model.loss(batch)
    with pytest.raises(SampleError, match="boxes"):
        model.loss({"image_s2": batch["image_s2"], "mask": torch.zeros(3, 24, 24).long()})
    with pytest.raises(ExportError, match="number of boxes"):
        model.export(tmp_path / "m.onnx")


def test_a_prediction_moves_as_one(make_encoder, batch):
    found = Detector(make_encoder(), 2, score_threshold=0.0).predict(batch).to("meta")
    assert {t.device.type for t in (*found.boxes, *found.scores, *found.labels)} == {"meta"}


@pytest.mark.parametrize("kind", ["vit", "galileo"])
def test_encoders_of_one_coarse_map_join(kind):
    if kind == "vit":
        encoder = FusionEncoder("vit_tiny_patch16_224", levels=(11,))
    else:
        encoder = GalileoEncoder(width=32, depth=1, heads=2)
    assert len(encoder.strides) == 1
    model = Detector(encoder, 2, channels=32)
    given = planted([[(4, 4, 9, 8)], []], [[1], []], (48, 40))
    model.loss(given)["loss"].backward()
    assert all(p.grad is not None for p in model.head.parameters())
    assert len(model.predict(given).boxes) == 2
