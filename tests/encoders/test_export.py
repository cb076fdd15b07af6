"""Compiled and exported graphs equal the eager encoder, at sizes they were not traced at."""

import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.export import Dim, export

from deepsentinel.encoders.croma import CROMAEncoder
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.encoders.galileo import GalileoEncoder
from deepsentinel.encoders.hyper import CopernicusFMEncoder, DOFAEncoder
from deepsentinel.encoders.panopticon import PanopticonEncoder
from deepsentinel.encoders.presto import PrestoEncoder
from deepsentinel.encoders.two_tower import TwoTowerEncoder
from deepsentinel.errors import ExportError, UnknownNameError

NAN = float("nan")
AXES = {0: Dim("B", min=1, max=256), 2: Dim("H", min=33, max=2048), 3: Dim("W", min=33, max=2048)}


def patches(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    s1 = torch.randn(count, 2, height, width) * 3 - 14
    s2 = torch.rand(count, 12, height, width) * 0.4
    s2[0, :, :5] = NAN
    return s1, s2


def assert_equal(found: Any, encoder: FusionEncoder, inputs: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad():
        expected = encoder(*inputs, empty="nan")
    for a, b in zip(found, (expected.embedding, *expected.maps), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize(
    ("backbone", "fusion"),
    [("convnext_atto", "early"), ("resnet10t", "mid"), ("mobilenetv4_conv_small_050", "late")],
)
def test_exports_with_free_batch_and_size(backbone: str, fusion: Any) -> None:
    encoder = FusionEncoder(backbone, fusion=fusion, embed_dim=16).eval()
    program = export(encoder.exportable(), patches(2, 64, 96), dynamic_shapes=(AXES, AXES)).module()
    for inputs in (patches(1, 33, 33), patches(3, 61, 47)):
        with torch.no_grad():
            assert_equal(program(*inputs), encoder, inputs)
    s1, s2 = patches(2, 40, 40)
    s1[1], s2[1] = NAN, NAN
    with torch.no_grad():
        found = program(s1, s2)
    assert found[0][1].isnan().all()
    assert_equal(found, encoder, (s1, s2))


@pytest.mark.parametrize("backbone", ["resnet10t", "convnext_atto"])
def test_an_embedding_of_each_sensor_exports(backbone: str) -> None:
    encoder = FusionEncoder(
        backbone, fusion="late", embed_dim=16, moments=True, project_sensors=True
    ).eval()
    program = export(encoder.exportable(), patches(2, 64, 96), dynamic_shapes=(AXES, AXES)).module()
    s1, s2 = patches(3, 61, 47)
    s2[1], s2[2, :, 9:], s1[2] = NAN, NAN, NAN
    with torch.no_grad():
        assert_equal(program(s1, s2), encoder, (s1, s2))


def test_the_encoder_itself_exports() -> None:
    encoder = FusionEncoder("resnet10t").eval()
    program = export(encoder, patches(2, 64, 96), dynamic_shapes=(AXES, AXES)).module()
    inputs = patches(1, 50, 70)
    with torch.no_grad():
        features = program(*inputs)
    assert features.strides == encoder.strides
    assert_equal((features.embedding, *features.maps), encoder, inputs)


def test_the_smallest_size_exports_when_fixed() -> None:
    encoder = FusionEncoder("mobilenetv4_conv_small_050").eval()
    inputs = patches(1, 16, 16)
    program = export(encoder.exportable(), inputs).module()
    with torch.no_grad():
        assert_equal(program(*inputs), encoder, inputs)


@pytest.mark.parametrize("fusion", ["early", "mid"])
def test_compiles_as_one_graph(fusion: Any) -> None:
    encoder = FusionEncoder("resnet10t", fusion=fusion, levels=(1,)).eval()
    compiled = torch.compile(encoder, backend="eager", fullgraph=True, dynamic=True)
    for size in ((2, 64, 96), (3, 33, 47)):
        inputs = patches(*size)
        with torch.no_grad():
            features = compiled(*inputs)
        assert_equal((features.embedding, *features.maps), encoder, inputs)
    dn = inputs[1] * 10_000  # nothing is checked in a compiled graph
    with torch.no_grad():
        assert compiled(inputs[0], dn).embedding.shape == (3, encoder.embed_dim)


def assert_graph_equal(encoder: Any, path: Path) -> None:
    """The file in onnxruntime gives what the encoder gives, at odd sizes, for each sensor and both."""
    session = onnxruntime.InferenceSession(str(path))
    bands = encoder.bands
    assert [i.name for i in session.get_inputs()] == ["s1", "s2"]
    s1, s2 = torch.randn(3, 2, 47, 61) * 3 - 14, torch.rand(3, len(bands["s2"]), 47, 61) * 0.4
    s2[0, :, :9], s2[1, 2] = NAN, NAN
    s1[2], s2[2] = NAN, NAN
    for inputs in ((s1, s2), (s1, s2 * NAN), (s1 * NAN, s2)):
        with torch.no_grad():
            expected = encoder(
                *inputs, s1_bands=bands["s1"], s2_bands=bands["s2"], check="never", empty="nan"
            )
        found = session.run(None, {"s1": inputs[0].numpy(), "s2": inputs[1].numpy()})
        for a, b in zip(found, (expected.embedding, *expected.maps), strict=True):
            torch.testing.assert_close(torch.from_numpy(a), b, atol=1e-4, rtol=1e-4, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        lambda: FusionEncoder("mobilenetv4_conv_small_050", embed_dim=16, levels=(1, 2)),
        lambda: GalileoEncoder(width=32, depth=1, heads=2),
        lambda: PrestoEncoder(stride=4),
        lambda: TwoTowerEncoder("resnet10t"),
        lambda: TwoTowerEncoder("vit_tiny_patch16_224", fusion="mean", scaling="softcon"),
        lambda: CROMAEncoder(width=32, depth=2),
        lambda: PanopticonEncoder(attention_width=96, depth=1),
        lambda: CopernicusFMEncoder(width=32, depth=1, heads=2),
        lambda: DOFAEncoder(width=32, depth=1, heads=2),
    ],
    ids=[
        *("fusion", "galileo", "presto", "resnet", "vit", "croma", "panopticon"),
        *("copernicus-fm", "dofa"),
    ],
)
def test_onnx_gives_the_same_for_either_sensor_and_both(build: Any, tmp_path: Path) -> None:
    encoder = build().eval()
    path = encoder.export(tmp_path / "deep" / "encoder.onnx")
    assert_graph_equal(encoder, path)
    assert [p.name for p in path.parent.iterdir()] == ["encoder.onnx"]
    facts = json.loads(onnx.load(path).metadata_props[0].value)
    assert facts["bands"] == {s: list(b) for s, b in encoder.bands.items()}


@pytest.mark.slow
def test_onnx_of_an_encoder_for_one_sensor(tmp_path: Path) -> None:
    encoder = FusionEncoder("mobilenetv4_conv_small_050", levels=(1,), s1_bands=()).eval()
    session = onnxruntime.InferenceSession(str(encoder.export(tmp_path / "encoder.onnx")))
    assert [i.name for i in session.get_inputs()] == ["s2"]
    s2 = torch.rand(2, 12, 47, 61) * 0.4
    s2[0, :, :9] = NAN
    with torch.no_grad():
        expected = encoder(s2=s2)
    found = session.run(None, {"s2": s2.numpy()})
    for a, b in zip(found, (expected.embedding, *expected.maps), strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b, atol=1e-4, rtol=1e-4)


def test_a_torch_graph_on_disk(tmp_path: Path) -> None:
    encoder = FusionEncoder("resnet10t", levels=(1,)).train()
    path = encoder.export(tmp_path / "encoder.pt2", format="torch")
    assert encoder.training
    assert all(m.training for m in encoder.modules())
    inputs = patches(3, 61, 47)
    program = torch.export.load(path).module()
    with torch.no_grad():
        assert_equal(program(*inputs), encoder.eval(), inputs)


def test_one_sensor_has_one_input(tmp_path: Path) -> None:
    encoder = FusionEncoder("resnet10t", levels=(1,), s1_bands=()).eval()
    path = encoder.export(tmp_path / "encoder.pt2", format="torch", size=(32, 32))
    s2 = patches(5, 32, 32)[1]
    with torch.no_grad():
        found = torch.export.load(path).module()(None, s2)
        torch.testing.assert_close(found[0], encoder(s2=s2).embedding)


def test_what_cannot_be_exported_says_so(tmp_path: Path) -> None:
    encoder = FusionEncoder("swin_tiny_patch4_window7_224", levels=(0,)).eval()
    with pytest.raises(ExportError, match=r"pass size=\(H, W\)"):
        encoder.export(tmp_path / "encoder.pt2", format="torch")
    with pytest.raises(UnknownNameError, match="format='tflite'"):
        encoder.export(tmp_path / "encoder", format="tflite")  # type: ignore[arg-type]
