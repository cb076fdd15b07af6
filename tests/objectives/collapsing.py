"""Objectives from which what holds embeddings apart was taken: runs that are made to collapse."""

import torch
from torch import nn

from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.objectives.objective import Objective
from tests.objectives.conftest import make


class Agree(nn.Module):
    """What is left of NT-Xent where nothing repels."""

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return -nn.functional.cosine_similarity(first, second).mean()


def simclr_without_negatives(encoder: FusionEncoder) -> Objective:
    objective = make("simclr", encoder)
    objective.criterion = Agree()
    objective.head = nn.Linear(encoder.embed_dim, 16)  # batch norm in a head repels a little
    return objective


def byol_without_predictor(encoder: FusionEncoder) -> Objective:
    objective = make("byol", encoder, momentum=0.0)
    objective.predict = nn.Identity()
    return objective


def vicreg_without_variance(encoder: FusionEncoder) -> Objective:
    return make("vicreg", encoder, variance=0.0, covariance=0.0)


MADE_TO_COLLAPSE = (simclr_without_negatives, byol_without_predictor, vicreg_without_variance)
