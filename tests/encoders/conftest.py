"""Fixtures of the encoders' tests: the authors' published weights and outputs, and a small batch."""

from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def published(shared_data: Path) -> Path:
    """Folder of published weights and of what their authors' own code gives."""
    return shared_data / "weights"


@pytest.fixture(scope="session")
def reference(published: Path) -> dict[str, np.ndarray]:
    return dict(np.load(published / "reference_outputs.npz"))


@pytest.fixture(scope="session")
def reference_inputs(reference: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    s2 = torch.from_numpy(reference["s2_dn"]) / 10_000
    return {"s1": torch.from_numpy(reference["s1_db"]), "s2": s2}


@pytest.fixture
def patches() -> dict[str, torch.Tensor]:
    """Two patches of 32 px: dB and reflectance, everything observed."""
    generator = torch.Generator().manual_seed(0)
    return {
        "s1": torch.randn(2, 2, 32, 32, generator=generator) * 3 - 12,
        "s2": torch.rand(2, 12, 32, 32, generator=generator) * 0.4,
    }
