"""Fine-tuned models as graphs: the same logits, for each sensor and both, at an odd size."""

from pathlib import Path

import onnxruntime
import pytest
import torch

from deepsentinel import Classifier, FusionEncoder, Segmenter

NAN = float("nan")


def encoder() -> FusionEncoder:
    return FusionEncoder("mobilenetv4_conv_small_050", levels=(1, 2))


@pytest.mark.slow
def test_a_segmenter_in_onnxruntime(tmp_path: Path) -> None:
    model = Segmenter(encoder(), 3, "linear", class_names=("a", "b", "c")).eval()
    session = onnxruntime.InferenceSession(str(model.export(tmp_path / "model.onnx")))
    s1, s2 = torch.randn(2, 2, 47, 61) * 3 - 14, torch.rand(2, 12, 47, 61) * 0.4
    s2[0, :, :9] = NAN
    for inputs in ((s1, s2), (s1, s2 * NAN), (s1 * NAN, s2)):
        with torch.no_grad():
            expected = model(*inputs)
        found = session.run(None, {"s1": inputs[0].numpy(), "s2": inputs[1].numpy()})
        for a, b in zip(found, (expected.logits, expected.probabilities), strict=True):
            torch.testing.assert_close(torch.from_numpy(a), b, atol=1e-4, rtol=1e-4)


def test_a_classifier_in_torch(tmp_path: Path) -> None:
    model = Classifier(encoder(), 3, multilabel=True).eval()
    path = model.export(tmp_path / "model.pt2", format="torch")
    s1, s2 = torch.randn(2, 2, 47, 61) * 3 - 14, torch.rand(2, 12, 47, 61) * 0.4
    program = torch.export.load(path).module()
    with torch.no_grad():
        expected = model(s1, s2)
        logits, probabilities = program(s1, s2)
    torch.testing.assert_close(logits, expected.logits)
    torch.testing.assert_close(probabilities, expected.probabilities)
