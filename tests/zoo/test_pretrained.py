"""What `pretrain` leaves can be published as it is."""

from pathlib import Path

import pytest
import torch

import deepsentinel

# huggingface_hub uploads bytes in a way that its HTTP library no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_a_pretrained_encoder_goes_to_the_hub_with_its_card(
    site: object, login: None, tmp_path: Path
) -> None:
    samples = [{"image_s1": torch.full((2, 32, 32), -9.0 - i)} for i in range(4)]
    result = deepsentinel.pretrain(
        samples,
        out_dir=tmp_path,
        objective="masked",
        backbone="mobilenetv4_conv_small_050",
        steps=1,
        batch_size=4,
        name="mine",
        licence="CC-BY-4.0",
        accelerator="cpu",
        progress=False,
    )
    commit = deepsentinel.load_encoder(result.path).push_to_hub("user/mine")
    found = deepsentinel.load_encoder(f"hf://user/mine@{commit}")
    assert (found.card.name, found.card.licence) == ("mine", "CC-BY-4.0")
    assert found.card.training["objective"] == "masked"
    assert found.card.proved_on == ""  # whatever it began with was
    s1 = samples[0]["image_s1"][None]
    assert torch.equal(found(s1=s1).embedding, result.encoder(s1=s1).embedding)
