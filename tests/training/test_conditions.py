"""What is shown under a condition: sensors and simulated clouds."""

import pytest
import torch

from deepsentinel.errors import TrainingError
from deepsentinel.training.evaluation.conditions import Condition, Conditioned


def nan_share(image):
    return image.isnan().float().mean().item()


def test_other_sensors_are_hidden_and_nothing_else(samples) -> None:
    patches = samples(2)
    shown = Conditioned(patches, Condition(("s1",)))[1]
    assert nan_share(shown["image_s2"]) == 1
    assert torch.equal(shown["image_s1"], patches[1]["image_s1"])
    assert nan_share(patches[1]["image_s2"]) == 0
    both = Conditioned(patches, Condition())[1]
    assert all(torch.equal(both[k], patches[1][k]) for k in ("image_s1", "image_s2", "mask"))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.75, 1.0])
def test_clouds_hide_their_share_of_sentinel_2(samples, share) -> None:
    patches = samples(3)
    shown = [Conditioned(patches, Condition(cloud=share))[i] for i in range(3)]
    assert [nan_share(s["image_s2"]) for s in shown] == pytest.approx([share] * 3, abs=0.002)
    assert all(nan_share(s["image_s1"]) == 0 for s in shown)
    covered = shown[0]["image_s2"].isnan()
    assert torch.equal(covered.any(0), covered.all(0))  # all bands of a pixel, or none


def test_clouds_follow_from_id_share_and_seed(samples) -> None:
    patches = samples(2)
    clouded = [
        Conditioned(some, Condition(cloud=0.5), seed=seed)[0]["image_s2"].isnan()
        for some, seed in ((patches, 0), (patches, 0), (patches[1:], 0), (patches, 1))
    ]
    assert torch.equal(clouded[0], clouded[1])
    assert not torch.equal(clouded[0], clouded[2])
    assert not torch.equal(clouded[0], clouded[3])


def test_conditions_that_show_the_same_are_one() -> None:
    assert Condition(("s1",), 0.5).shown == Condition(("s1",))
    assert Condition(cloud=1.0).shown == Condition(("s1",))
    assert Condition(("s2",), 1.0).shown == Condition(("s2",), 1.0)
    with pytest.raises(TrainingError, match=r"1\.5"):
        Condition(cloud=1.5)
