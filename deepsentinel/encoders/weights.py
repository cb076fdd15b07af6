"""`model.safetensors`: tensors of an encoder, hashed, stored small, loaded strictly."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from deepsentinel.encoders.config import WEIGHTS_FILE, read_file, replace_file
from deepsentinel.errors import WeightsError


def write_weights(folder: Path, module: nn.Module, dtype: torch.dtype) -> str:
    """Store a module's parameters in `dtype`, its buffers as they are; returns the sha256.

    Raises:
        WeightsError: a parameter is not finite, or is not when stored in `dtype`.
    """
    parameters = {name for name, _ in module.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        stored = tensor.detach().cpu()
        if name in parameters:
            stored = stored.to(dtype)
            if not bool(stored.isfinite().all()):
                raise WeightsError(f"{name} is not finite in {dtype}. Was training stable?")
        tensors[name] = stored.contiguous()
    data = save(tensors)
    replace_file(folder / WEIGHTS_FILE, data)
    return hashlib.sha256(data).hexdigest()


def read_weights(folder: Path, sha256: str) -> dict[str, Tensor]:
    """Tensors of `model.safetensors`, floating ones as float32.

    Raises:
        WeightsError: the file is absent, is not safetensors, or its sha256 differs.
    """
    data = read_file(folder / WEIGHTS_FILE)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise WeightsError(
            f"{WEIGHTS_FILE} in {str(folder)!r} ({len(data)} bytes) has sha256 {found}; expected "
            f"{sha256}. It was damaged or replaced: get the folder anew; for an encoder that ships "
            "with deepsentinel, reinstall deepsentinel."
        )
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise WeightsError(f"{WEIGHTS_FILE} in {str(folder)!r}: {error}. Save it anew.") from error
    return {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}


def load_strictly(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    origin: str,
    advice: str = "Weights and config must come from one save_pretrained.",
) -> None:
    """Copy tensors into a module that has exactly these keys and shapes.

    Args:
        module: what to fill.
        tensors: by the module's own names.
        origin: where they come from, for the message.
        advice: what to do if they do not fit, for the message.

    Raises:
        WeightsError: listing what is absent, unexpected or of another shape.
    """
    own = module.state_dict()
    differences = {
        "absent": sorted(set(own) - set(tensors)),
        "unexpected": sorted(set(tensors) - set(own)),
        "of another shape": [
            f"{k} {tuple(tensors[k].shape)} for {tuple(own[k].shape)}"
            for k in own
            if k in tensors and tensors[k].shape != own[k].shape
        ],
    }
    found = [
        f"{len(keys)} {what} ({', '.join(keys[:4])})" for what, keys in differences.items() if keys
    ]
    if found:
        raise WeightsError(
            f"weights of {origin} do not fit the encoder of its config: {'; '.join(found)}. {advice}"
        )
    module.load_state_dict(dict(tensors), strict=True)
