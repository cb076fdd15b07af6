"""Encoders and models as graphs for other runtimes: tensors in, a tuple of tensors out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from deepsentinel.bands import SENSORS, Sensor
from deepsentinel.errors import ExportError, MissingExtraError, UnknownNameError, nearest

Format = Literal["torch", "onnx"]
Size = tuple[int, int]

MAX_SIDE = 16_384
"""Most pixels a side of a graph of any size."""
_LEVELS: dict[Sensor, float] = {"s1": -12.0, "s2": 0.1}


class Exportable(nn.Module):
    """An encoder as `torch.export` and other runtimes want it: tensors in, a tuple of tensors out.

    Bands are those of the encoder in its own order, an absent sensor is all NaN, and a patch that
    was observed nowhere gives NaN. The number of patches and their size can be dynamic: height and
    width from one pixel above the backbone's divisor (33 px for most); smaller ones, and Swin
    backbones, export with a fixed size.

    Example:
        >>> import torch
        >>> from torch.export import Dim, export
        >>> from deepsentinel.encoders.fusion import FusionEncoder
        >>> encoder = FusionEncoder("mobilenetv4_conv_small_050").eval()
        >>> example = (torch.full((2, 2, 64, 96), -12.0), torch.full((2, 12, 64, 96), 0.1))
        >>> axes = {0: Dim("B"), 2: Dim("H", min=33), 3: Dim("W", min=33)}
        >>> program = export(encoder.exportable(), example, dynamic_shapes=(axes, axes))
        >>> absent = torch.full((1, 12, 47, 61), float("nan"))
        >>> embedding, *maps = program.module()(torch.full((1, 2, 47, 61), -12.0), absent)
        >>> embedding.shape, len(maps)
        (torch.Size([1, 480]), 5)
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what comes out."""
        strides: Any = self.encoder.strides
        return ("embedding", *(f"map_{i}" for i in range(len(strides))))

    def forward(self, s1: Tensor | None, s2: Tensor | None) -> tuple[Tensor, ...]:
        """Embedding (B, D), then the maps, fine to coarse."""
        bands: Any = self.encoder.bands
        features = self.encoder(
            s1, s2, s1_bands=bands.get("s1"), s2_bands=bands.get("s2"), check="never", empty="nan"
        )
        return (features.embedding, *features.maps)


@runtime_checkable
class Graph(Protocol):
    """A module that takes `s1` and `s2`, one of them `None` if it reads one, and gives a tuple."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what comes out."""


def export_graph(
    module: nn.Module,
    path: str | Path,
    *,
    form: str,
    bands: dict[Sensor, tuple[str, ...]],
    least: int,
    size: Size | None,
    facts: dict[str, Any],
) -> Path:
    """Write a graph of a module that takes `s1` and `s2` and has `outputs`.

    Args:
        module: in any mode; it is traced in evaluation mode and float32 on its own device.
        path: of the file.
        form: `"torch"` or `"onnx"`.
        bands: of each input, in the order of its channels.
        least: pixels a side from which a graph of any size works.
        size: (H, W) of a graph of one size; any size if `None`.
        facts: stored with the graph, as JSON under `deepsentinel`.

    Raises:
        ExportError: the network cannot be traced with free sizes.
        MissingExtraError: the packages for ONNX are not installed.
        UnknownNameError: another `form`.
    """
    if form not in get_args(Format):
        raise UnknownNameError(f"format={form!r}. {nearest(form, get_args(Format))}")
    if form == "onnx":
        _require_onnx()
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    modes = [(m, m.training) for m in module.modules()]
    try:
        program = _traced(module.eval(), bands, least, size)
    finally:
        for part, training in modes:
            part.training = training
    described = json.dumps({**facts, "bands": bands, "inputs": list(bands)})
    if form == "torch":
        torch.export.save(program, file, extra_files={"deepsentinel.json": described})
        return file
    if not isinstance(module, Graph):
        raise TypeError(f"{type(module).__name__} does not name its outputs")
    _write_onnx(program, file, list(bands), module.outputs, described)
    return file


def _traced(
    module: nn.Module, bands: dict[Sensor, tuple[str, ...]], least: int, size: Size | None
) -> ExportedProgram:
    """The graph of the module, batch free, and height and width too unless a size is given."""
    device = next(module.parameters()).device
    height, width = size or (2 * least, 3 * least)
    inputs = {
        s: torch.full((2, len(b), height, width), _LEVELS[s], device=device)
        for s, b in bands.items()
    }
    axes: dict[int, Any] = {0: Dim("B", max=4096)}
    if size is None:
        axes |= {2: Dim("H", min=least, max=MAX_SIDE), 3: Dim("W", min=least, max=MAX_SIDE)}
    arguments = tuple(inputs.get(s) for s in SENSORS)
    shapes = tuple(axes if s in inputs else None for s in SENSORS)
    try:
        with torch.no_grad():
            return torch.export.export(module, arguments, dynamic_shapes=shapes, strict=False)
    except (RuntimeError, ValueError, AssertionError) as error:
        if size is not None:
            raise ExportError(f"the network cannot be traced: {error}") from error
        raise ExportError(
            "the network cannot be traced with free height and width; pass size=(H, W) for a graph "
            f"of one size. torch says: {str(error).strip().splitlines()[0]}"
        ) from error


def _write_onnx(
    program: ExportedProgram,
    file: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    described: str,
) -> None:
    graph = torch.onnx.export(
        program,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamo=True,
        verbose=False,
    )
    assert graph is not None  # noqa: S101 - of a whole program it is always given
    graph.model.metadata_props["deepsentinel"] = described
    graph.save(str(file), external_data=False)


def _require_onnx() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{' and '.join(missing)} not installed; ONNX needs the extra: pip install "
            '"deepsentinel[onnx]".'
        )
