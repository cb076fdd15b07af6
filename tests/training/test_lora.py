"""Low-rank changes: start as nothing, are all that is trained, and end as plain weights."""

import pytest
import torch

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import ConfigError
from deepsentinel.heads.classification import Classifier
from deepsentinel.heads.model import load_model
from deepsentinel.sample import collate
from deepsentinel.training.finetune import finetune
from deepsentinel.training.finetuning.lora import LoRA, adaptable, adapted, merged


def vit(seed: int = 0):
    torch.manual_seed(seed)
    options = {"embed_dim": 32, "depth": 3, "num_heads": 2}
    return FusionEncoder("vit_tiny_patch16_224", backbone_options=options)


def counted(module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_at_first_nothing_changes_and_then_only_a_low_rank_sum() -> None:
    encoder, s1 = vit().eval(), torch.randn(2, 2, 32, 32) - 12
    before, plain = (
        encoder(s1=s1).embedding,
        {k: v.clone() for k, v in encoder.state_dict().items()},
    )
    lora = LoRA(rank=3, alpha=6.0, targets=("qkv",))
    with adapted(encoder, lora, seed=0):
        assert torch.equal(encoder(s1=s1).embedding, before)
        changes = [m for n, m in encoder.named_modules() if n.endswith("parametrizations.weight.0")]
        assert counted(encoder) == 3 * (3 * 32 + 3 * 96)
        for change in changes:
            torch.nn.init.normal_(change.up)
        wanted = {  # by hand, from the formula of the paper
            f"towers.both.net.model.blocks.{i}.attn.qkv.weight": 2.0 * (c.up @ c.down).detach()
            for i, c in enumerate(changes)
        }
        changed, state = encoder(s1=s1).embedding, merged(encoder)
    assert not torch.allclose(changed, before)
    after = encoder.state_dict()
    assert after.keys() == plain.keys() == state.keys()
    for name, value in after.items():
        assert torch.equal(state[name], value)
        torch.testing.assert_close(value - plain[name], wanted.get(name, torch.zeros_like(value)))
    for delta in wanted.values():
        assert torch.linalg.matrix_rank(delta) == 3
    assert torch.equal(encoder(s1=s1).embedding, changed)
    assert all(p.requires_grad for p in encoder.parameters())


def test_only_changes_and_the_head_learn(tmp_path, samples) -> None:
    model = Classifier(vit(), 3)
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    result = finetune(
        model,
        samples(8),
        samples(4, seed=1),
        out_dir=tmp_path,
        epochs=3,
        lr=1e-2,
        batch_size=4,
        lora=LoRA(rank=2),
        layer_decay=0.8,
        progress=False,
        report=False,
        accelerator="cpu",
    )
    changed = {k for k, v in model.encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(k.endswith("weight") and before[k].ndim > 1 for k in changed)
    for name in changed:
        change = model.encoder.state_dict()[name] - before[name]
        assert torch.linalg.matrix_rank(change.flatten(1), rtol=1e-3) <= 2
    stored = torch.load(result.last, weights_only=True)
    trained = sum(len(g["params"]) for g in stored["optimiser"]["param_groups"])
    assert trained == 2 * len(changed) + 4
    loaded, batch = load_model(tmp_path), collate(samples(4, seed=1))
    assert torch.equal(loaded.predict(batch).logits, result.model.predict(batch).logits)
    assert "fine-tuned" in loaded.encoder.card.training


def test_running_statistics_stay(tmp_path, model, samples) -> None:
    ours = model("linear")
    before = {k: v.clone() for k, v in ours.encoder.state_dict().items() if "running" in k}
    assert before
    finetune(
        ours,
        samples(4),
        samples(2, seed=1),
        out_dir=tmp_path,
        epochs=1,
        lora=LoRA(rank=2),
        progress=False,
        report=False,
        accelerator="cpu",
    )
    assert all(torch.equal(ours.encoder.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize("backbone", ["resnet10t", "convnext_atto", "efficientnet_b0"])
def test_every_kind_of_backbone_has_layers_to_adapt(backbone) -> None:
    encoder = FusionEncoder(backbone)
    layers = adaptable(encoder, LoRA())
    assert len(layers) > 5
    assert all(getattr(layer, "groups", 1) == 1 for layer in layers)


def test_what_cannot_be_adapted_is_named() -> None:
    with pytest.raises(ConfigError, match=r"targets=\('qvk',\).*blocks.2.mlp.fc2"):
        adaptable(vit(), LoRA(targets=("qvk",)))
    with pytest.raises(ConfigError, match=r"wider than rank=4096"):
        adaptable(vit(), LoRA(rank=4096))
    with pytest.raises(ConfigError, match="rank=0"):
        LoRA(rank=0)
