"""Recipes are configs that read, networks that build, and runs that begin."""

from math import prod
from pathlib import Path

import pytest

from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.training.config import read_config
from deepsentinel.training.pretrain import run_config
from deepsentinel.training.pretraining.options import PretrainConfig

RECIPES = sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))
HERE = (
    "batch_size=4", "crop=32", "num_workers=0", "steps=2", "log_every=1", "accelerator=cpu",
    "compile=false", "precision=32-true", "image_every=null",
)  # fmt: skip
"""What a machine without GPUs needs to take a few steps."""
THIN = "encoder_options.backbone_options={depths: [1, 1, 1, 1], dims: [16, 16, 16, 32]}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_says_what_it_makes_and_takes_a_few_steps(recipe: Path, tmp_path: Path) -> None:
    """With the recipe's own options, but for sizes: a thin network on small patches."""
    whole = read_config(PretrainConfig, recipe)
    assert whole.name == recipe.stem.replace("_", "-")
    assert whole.licence
    assert whole.stream
    assert whole.batch_size % (8 * whole.accumulate) == 0, "eight GPUs share a step evenly"
    root = write_synthetic_corpus(tmp_path / "corpus", patches=8, patch_size=32)
    sets = [*HERE, THIN, f"corpus={root}", f"out_dir={tmp_path / 'run'}"]
    thin = read_config(PretrainConfig, recipe, sets=sets)
    few = run_config(thin, progress=False)
    assert [step for step, _ in few.curve("loss")] == [1, 2]
    assert few.encoder.card.name == whole.name
    assert few.encoder.embed_dim == whole.embed_dim


@pytest.mark.parametrize(
    ("stem", "millions"), [("deepsentinel_small", 29.3), ("deepsentinel_base", 91.5)]
)
def test_the_network_of_a_recipe_has_the_size_that_its_head_says(
    stem: str, millions: float
) -> None:
    recipe = next(r for r in RECIPES if r.stem == stem)
    config = read_config(PretrainConfig, recipe)
    encoder = FusionEncoder(
        config.backbone,
        fusion=config.fusion,
        embed_dim=config.embed_dim,
        **config.encoder_options,
    )
    count = sum(prod(p.shape) for p in encoder.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.1)
    assert f"{round(count)} million" in recipe.read_text().splitlines()[0]
