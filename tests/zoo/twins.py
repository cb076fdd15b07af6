"""Files of random tensors under published names, for rows whose published weights are not here."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from deepsentinel.encoders.pretrained import encoder_class
from deepsentinel.zoo.public import PublicRow
from deepsentinel.zoo.rows import Row
from deepsentinel.zoo.torchgeo_rows import TORCHGEO

PUBLIC: dict[str, PublicRow] = {row.card.name: row for row in TORCHGEO}
_SMALL: dict[str, Mapping[str, object]] = {
    "TwoTowerEncoder": {},
    "CROMAEncoder": {"width": 32, "depth": 2},
    "DOFAEncoder": {"width": 32, "depth": 1, "heads": 2},
    "CopernicusFMEncoder": {"width": 32, "depth": 1, "heads": 2},
    "PanopticonEncoder": {"attention_width": 96, "depth": 1},
}


def small(row: PublicRow) -> PublicRow:
    """The same row around a network that is quick to build."""
    arguments = {**row.arguments, **_SMALL[row.kind]}
    if row.kind == "TwoTowerEncoder":
        resnet = str(row.arguments["backbone"]).startswith("resnet")
        arguments["backbone"] = "resnet10t" if resnet else "vit_tiny_patch16_224"
    return replace(row, arguments=arguments)


def write_files(row: PublicRow, folder: Path) -> tuple[Row, dict[str, Path]]:
    """Random weights of this row as its authors would publish them, and the row that pins them.

    A prefix of the hash is pinned where the row pins one.
    """
    torch.manual_seed(1)
    encoder = encoder_class(row.kind)(**row.arguments)
    files, sources = {}, {}
    for key, net in _networks(encoder).items():
        source = row.card.sources[key]
        files[key] = folder / source.path.rpartition("/")[2]
        torch.save(_tensors(net), files[key])
        digest = hashlib.sha256(files[key].read_bytes()).hexdigest()
        sources[key] = replace(source, sha256_prefix=source.sha256_prefix and digest[:8])
    card = replace(row.card, sources=sources)
    build = replace(row, card=card).build
    return Row(card=card, build=build, options=row.options), files


def galileo_twin(published: Path, file: Path, *, width: int, depth: int) -> Path:
    """A file of random tensors with the names of a published one, for another width and depth."""
    torch.manual_seed(2)
    state = torch.load(published, map_location="cpu", weights_only=True)
    base = len(state["norm.weight"])
    sizes = {base: width, 4 * base: 4 * width, base // 4: width // 4}
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("blocks.") and name.split(".")[1] != "0":
            continue
        shape = [sizes.get(n, n) for n in tensor.shape]
        repeated = range(depth) if name.startswith("blocks.") else range(1)
        for k in repeated:
            noise = 0.3 * torch.randn(shape) / max(1, shape[-1]) ** 0.5
            found[name.replace("blocks.0.", f"blocks.{k}.")] = noise.to(tensor.dtype)
    assert len(blocks) > 1
    torch.save(found, file)
    return file


def _networks(encoder: nn.Module) -> dict[str, nn.Module]:
    if hasattr(encoder, "net"):
        return {"both": encoder.net}
    return {s: encoder.towers[s].net for s in ("s1", "s2")}


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    """What the network starts with and some noise, so that every token and position matters."""
    state = {k: v for k, v in net.state_dict().items() if k != "attn_bias"}
    noisy = {k for k, v in state.items() if v.is_floating_point() and "running" not in k}
    return {k: v + 0.05 * torch.randn(v.shape) if k in noisy else v for k, v in state.items()}
