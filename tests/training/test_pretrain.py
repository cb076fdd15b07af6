"""Pretraining: what a run gives, that it can be killed, shared, compiled, and that it says what is wrong."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from torch import nn

import deepsentinel
from deepsentinel.datasets.dataset import DeepSentinelDataset
from deepsentinel.datasets.stream import DeepSentinelStream
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.encoders.fusion import FusionEncoder
from deepsentinel.errors import (
    CheckpointError,
    ConfigError,
    TrainingError,
    TrainingWarning,
    UnknownNameError,
)
from deepsentinel.objectives.objective import Objective
from deepsentinel.objectives.registry import OBJECTIVES, make_objective
from deepsentinel.training.config import read_config
from deepsentinel.training.evaluation.embed import embed
from deepsentinel.training.pretrain import Given, pretrain, run_config
from deepsentinel.training.pretraining import network
from deepsentinel.training.pretraining.network import (
    Step,
    checkpoint_activations,
    joined,
    share_batch_statistics,
)
from deepsentinel.training.pretraining.options import PretrainConfig
from deepsentinel.training.pretraining.setup import encoder_of, opened
from deepsentinel.training.pretraining.state import PretrainFolder
from deepsentinel.training.pretraining.watch import Probe, Some
from deepsentinel.training.reports.report import read_report

HERE = Path(__file__).parent
TINY = {"backbone_options": {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16]}}


class Simple(Objective):
    """Tell the mean of the input; not a number at one call."""

    def __init__(self, encoder: FusionEncoder, *, broken_at: int = -1) -> None:
        super().__init__()
        self.read = nn.Linear(encoder.embed_dim, 1)
        self.broken_at, self.count = broken_at, 0

    def forward(self, encoder, batch, generator):
        found = encoder.encode(batch).embedding
        truth = batch["image_s2"].nan_to_num().mean((1, 2, 3))
        loss = (self.read(found)[:, 0] - truth).square().mean()
        self.count += 1
        return {"loss": loss * (torch.nan if self.count == self.broken_at else 1)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_corpus(tmp_path_factory.mktemp("pre") / "c", patches=40, patch_size=32)


def small(**more):
    return {
        "backbone": "convnext_atto",
        "encoder_options": TINY,
        "objective": "masked",
        "steps": 3,
        "batch_size": 8,
        "log_every": 1,
        "accelerator": "cpu",
        "progress": False,
    } | more


def given(objective: type[Objective] | None = Simple, **options):
    """An encoder of the usual size and an objective for it."""
    torch.manual_seed(0)
    encoder = FusionEncoder("convnext_atto", **TINY)
    return {"encoder": encoder, "objective": objective(encoder, **options)}


def rows(folder: Path, name: str = "loss") -> dict[int, float]:
    log = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return {row["step"]: row[name] for row in log if name in row}


def elsewhere(folder: Path, root: Path, **expected: str) -> Path:
    """Pretrainings in a process of their own, and how they should end."""
    names = [name.replace("_", "-") for name in expected]
    done = subprocess.run(
        [sys.executable, HERE / "pretraining.py", folder, root, *names],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    ends = [f"{n} {e}" for n, e in zip(names, expected.values(), strict=True)]
    assert done.stdout.splitlines() == ends, done.stderr
    return folder


@pytest.fixture(scope="module")
def killed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    return elsewhere(folder, root, map="[0, -9, 0]", stream="[0, -9, 0]")


@pytest.fixture(scope="module")
def pairs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    return elsewhere(folder, root, two_map="[0, 0]", two_stream="[0, 0]")


@pytest.mark.parametrize("way", ["map", "stream"])
def test_a_killed_run_goes_on_to_the_same_losses_and_weights(killed: Path, way: str) -> None:
    """By SIGKILL in the middle of an epoch; the stream is read by two workers."""
    whole, broken = killed / f"{way}-whole", killed / f"{way}-broken"
    for name in ("loss", "grad_norm", "effective_rank", "knn"):
        assert rows(broken, name) == rows(whole, name)
    assert list(rows(whole)) == list(range(1, 13))
    weights = [(f / "encoder" / "model.safetensors").read_bytes() for f in (whole, broken)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("way", ["map", "stream"])
def test_two_processes_have_the_same_weights_and_write_once(pairs: Path, way: str) -> None:
    folder = pairs / f"two-{way}"
    first, second = (torch.load(folder / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    assert torch.equal(first, second)
    assert list(rows(folder)) == [1, 2, 3]
    saved = deepsentinel.load_encoder(folder / "encoder")
    assert torch.equal(torch.cat([p.detach().flatten() for p in saved.parameters()]), first)


def test_two_processes_train_as_one_does_in_two_parts(
    pairs: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(HERE)
    from pretraining import shared

    alone = shared(str(root), tmp_path, stream=False, accumulate=2)
    pair = torch.load(pairs / "two-map" / "rank0.pt", weights_only=True)
    torch.testing.assert_close(alone, pair, rtol=1e-4, atol=1e-6)
    assert rows(tmp_path) == pytest.approx(rows(pairs / "two-map"), rel=1e-5)


def test_the_encoder_is_saved_with_a_card_that_tells_where_it_is_from(
    root: Path, tmp_path: Path
) -> None:
    result = pretrain(
        root,
        out_dir=tmp_path,
        **small(licence="MIT", name="mine", lr=0.01, seed=4, probe=root, probe_label="landcover_class",
                probe_patches=16, probe_every=2),
    )  # fmt: skip
    encoder = deepsentinel.load_encoder(result.path)
    card = encoder.card
    assert (card.name, card.licence, card.data_licence) == ("mine", "MIT", "CC0-1.0 (synthetic-0)")
    assert card.training["data"] == "synthetic-0 1 (synthetic, train split, 24 patches)"
    assert card.training["seed"] == "4"
    assert "lr: 0.01" in card.training["recipe"]
    assert len(card.training["commit"].split(",")[0].split()[0]) in {40, len("deepsentinel")}
    assert "nothing else" in card.limits
    assert card.resolution_m == 10
    batch = torch.full((2, 2, 32, 32), -9.0)
    assert torch.equal(encoder(s1=batch).embedding, result.encoder(s1=batch).embedding)

    data = DeepSentinelDataset(root, None, labels=("landcover_class",))
    probe = Probe.of(Some(data, 16), name="again", seed=4)
    (score,) = card.scores
    assert score.value == pytest.approx(probe.score(encoder), abs=1e-4)
    assert score.controls["band_stats"] == pytest.approx(probe.control, abs=1e-4)
    assert score.sensors == "both"
    torch.manual_seed(4)
    untrained = FusionEncoder("convnext_atto", **TINY)
    assert score.controls["random"] == pytest.approx(probe.score(untrained), abs=1e-4)
    assert [step for step, _ in result.curve("knn")] == [0, 2, 3]


def test_a_finished_run_answers_at_once_and_another_is_refused(root: Path, tmp_path: Path) -> None:
    first = pretrain(root, out_dir=tmp_path, **small())
    written = (tmp_path / "last.ckpt").stat().st_mtime_ns
    again = pretrain(root, out_dir=tmp_path, **small())
    assert (tmp_path / "last.ckpt").stat().st_mtime_ns == written
    assert again.log == first.log
    for ours, theirs in zip(first.encoder.parameters(), again.encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(CheckpointError, match=r"lr=0.001, now asked for lr=0.1"):
        pretrain(root, out_dir=tmp_path, **small(lr=0.1))
    with pytest.raises(CheckpointError, match="patches"):
        pretrain(root, out_dir=tmp_path, split="val", **small(batch_size=4))
    fresh = pretrain(root, out_dir=tmp_path, resume=False, **small(steps=1))
    assert [step for step, _ in fresh.curve("loss")] == [1]


def test_a_checkpoint_that_is_damaged_or_carries_code_is_refused(
    root: Path, tmp_path: Path
) -> None:
    pretrain(root, out_dir=tmp_path, **small(steps=1))
    last = tmp_path / "last.ckpt"
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        pretrain(root, out_dir=tmp_path, **small(steps=1))
    torch.save({"format_version": 1, "options": print}, last)
    with pytest.raises(CheckpointError, match="more than tensors"):
        pretrain(root, out_dir=tmp_path, **small(steps=1))


def test_parts_of_a_step_average_their_gradients(root: Path, tmp_path: Path) -> None:
    """Four parts of two patches teach what one batch of eight teaches."""
    how = small(turn=False, lr=1e-2, warmup=0.0)
    results = [
        pretrain(root, out_dir=tmp_path / str(parts), **how | given() | {"accumulate": parts})
        for parts in (1, 4)
    ]
    assert dict(results[0].curve("loss")) == pytest.approx(dict(results[1].curve("loss")), rel=1e-4)
    for one, four in zip(*(r.encoder.parameters() for r in results), strict=True):
        torch.testing.assert_close(one, four, rtol=1e-3, atol=2e-5)


def test_the_loop_is_that_of_plain_torch(root: Path, tmp_path: Path) -> None:
    """Batches, AdamW with decay on matrices, warm-up and cosine, clipping, moving average."""
    options = small(
        turn=False, steps=4, ema=0.5, warmup=0.25, lr=1e-2, weight_decay=0.1, grad_clip=0.1
    )
    result = pretrain(root, out_dir=tmp_path, **options | given())
    parts = given()
    encoder, objective = parts["encoder"].train(), parts["objective"]
    from deepsentinel.training.pretraining.feed import MapFeed, Position
    from deepsentinel.training.pretraining.framing import Framing

    feed = MapFeed(
        [DeepSentinelDataset(root, labels=())],
        Framing(encoder.bands, turn=False),
        batch_size=8,
        seed=0,
    )
    every = [*encoder.parameters(), *objective.parameters()]
    groups = [{"params": [p for p in every if p.ndim > 1], "weight_decay": 0.1},
              {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0}]  # fmt: skip
    optimiser = torch.optim.AdamW(groups)
    average, losses = None, []
    # Warm-up over one step of four; the cosine falls from step 1 on.
    for rate, (_, batch) in zip((0.5, 1.0, 0.75, 0.25), feed.batches(Position()), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * rate
        batch.pop("empty")
        loss = objective(encoder, batch, None)["loss"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(every, 0.1)
        optimiser.step()
        losses.append(loss.item())
        now = [p.detach().clone() for p in encoder.parameters()]
        average = (
            now
            if average is None
            else [0.5 * a + 0.5 * n for a, n in zip(average, now, strict=True)]
        )
    assert [v for _, v in result.curve("loss")] == pytest.approx(losses, rel=1e-5)
    for ours, expected in zip(result.encoder.parameters(), average, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


class Shrinks(Simple):
    """Takes from the embedding what tells patches apart, step by step."""

    def after_step(self, encoder, step, total):
        with torch.no_grad():
            encoder.project[1].weight.mul_(0.5)
            encoder.project[1].bias.fill_(1.0)


def test_a_run_that_collapses_says_so(root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = FusionEncoder("resnet10t", levels=(1, 2), embed_dim=8)
    how = small(steps=14, watch_every=1) | {"encoder": encoder, "objective": Shrinks(encoder)}
    with pytest.warns(TrainingWarning, match="the embeddings have collapsed"):
        result = pretrain(root, out_dir=tmp_path, **how)
    spread = dict(result.curve("embedding_std"))
    assert list(spread) == list(range(15))
    assert spread[14] < 0.02 * spread[0]
    assert result.collapsed
    assert "COLLAPSED" in str(result)
    assert any("collapsed" in note for note in read_report(tmp_path / "report").notes)


def test_a_loss_that_is_not_finite_ends_the_run_and_spares_the_checkpoint(
    root: Path, tmp_path: Path
) -> None:
    how = small(steps=9, log_every=100, checkpoint_every=2) | given(broken_at=6)
    with pytest.raises(TrainingError, match="became nan by step 6"):
        pretrain(root, out_dir=tmp_path, **how)
    state = PretrainFolder(tmp_path).read()
    assert state.step == 4
    assert all(v.isfinite().all() for v in state.encoder.values() if v.is_floating_point())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_for_a_few_steps(name: str, root: Path, tmp_path: Path) -> None:
    options = {}
    if name == "distillation":
        FusionEncoder("convnext_atto", **TINY).save_pretrained(tmp_path / "teacher")
        options = {"teachers": [str(tmp_path / "teacher")]}
    how = small(objective=name, objective_options=options, neighbours_km=1.0)
    result = pretrain(root, out_dir=tmp_path, **how | {"steps": 2, "image_every": 1})
    assert len(result.curve("loss")) == 2
    assert deepsentinel.load_encoder(result.path).embed_dim == result.encoder.embed_dim
    pictures = sorted(p.name for p in (tmp_path / "images").glob("*.png"))
    if name in {"masked", "pix2pix"}:
        assert pictures == ["0000001.png", "0000002.png"]


def test_bf16_channels_last_and_checkpointing_train_the_same_network(
    root: Path, tmp_path: Path
) -> None:
    plain = pretrain(root, out_dir=tmp_path / "plain", **small())
    losses = dict(plain.curve("loss"))
    for name, options, near in (
        ("again", {"checkpointing": True}, 1e-5),
        ("last", {"channels_last": True}, 1e-4),
        ("bf16", {"precision": "bf16-mixed"}, 5e-2),
    ):
        found = dict(pretrain(root, out_dir=tmp_path / name, **small(**options)).curve("loss"))
        assert found == pytest.approx(losses, rel=near)
        if name == "bf16":
            assert found != losses


def test_checkpointing_keeps_less_for_the_backward_pass() -> None:
    def kept(encoder: FusionEncoder) -> int:
        total = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            encoder(s1=torch.full((2, 2, 64, 64), -9.0)).embedding.sum()
        return total

    for backbone in ("convnext_atto", "vit_tiny_patch16_224"):
        encoder = FusionEncoder(backbone).train()
        before = kept(encoder)
        checkpoint_activations(encoder)
        assert kept(encoder) < 0.7 * before


def test_memory_formats_reach_the_convolutions(root: Path, tmp_path: Path) -> None:
    seen: list[bool] = []

    class Looks(Simple):
        def forward(self, encoder, batch, generator):
            weights = [
                p for p in encoder.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1
            ]
            seen.append(all(p.is_contiguous(memory_format=torch.channels_last) for p in weights))
            return super().forward(encoder, batch, generator)

    for wanted in (False, True):
        pretrain(
            root,
            out_dir=tmp_path / str(wanted),
            **small(steps=1, channels_last=wanted) | given(Looks),
        )
    assert seen == [False, True]


@pytest.mark.slow  # half a minute the first time, six seconds when torch finds its kernels again
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
def test_a_compiled_encoder_learns_the_same_and_is_saved_as_any_other(
    root: Path, tmp_path: Path
) -> None:
    plain, compiled = (
        pretrain(root, out_dir=tmp_path / str(on), **small(compile=on)) for on in (False, True)
    )
    assert dict(compiled.curve("loss")) == pytest.approx(dict(plain.curve("loss")), rel=1e-4)
    assert deepsentinel.load_encoder(compiled.path).config == plain.encoder.config


def test_batch_norms_count_over_all_gpus() -> None:
    """Those of the encoder, with their activations, and of heads; at rest nothing changes."""
    torch.manual_seed(0)
    encoder = FusionEncoder("mobilenetv3_small_050", levels=(0, 1))
    step = Step(encoder, make_objective("byol", encoder))
    s1 = torch.randn(2, 2, 32, 32) - 12
    before, names = encoder.eval()(s1=s1).embedding, list(step.state_dict())
    kinds = {type(part) for part in step.modules()}
    assert {nn.BatchNorm1d, BatchNormAct2d} < kinds
    share_batch_statistics(step)
    norms = [part for part in step.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert {type(part) for part in norms} == {nn.SyncBatchNorm, SyncBatchNormAct}
    assert list(step.state_dict()) == names
    assert torch.equal(encoder(s1=s1).embedding, before)


@pytest.mark.parametrize(("device", "processes", "shared"), [
    ("cuda", 1, False), ("cpu", 2, False), ("cuda", 2, True),
])  # fmt: skip
def test_batch_norms_are_shared_where_torch_can(
    device: str, processes: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is needed to decide it."""
    monkeypatch.setattr(network, "DistributedDataParallel", lambda step, **_: step)
    encoder = FusionEncoder("resnet10t")
    fabric = SimpleNamespace(world_size=processes, device=torch.device(device))
    joined(Step(encoder, Simple(encoder)), fabric)
    assert any(type(part) is nn.SyncBatchNorm for part in encoder.modules()) == shared


def test_only_bands_that_the_encoder_reads_are_decoded(root: Path, tmp_path: Path) -> None:
    """To the same losses; a corpus that has none of them is refused."""
    bands = {"s1_bands": (), "s2_bands": ("B08", "B04")}
    how = {"encoder_options": TINY | bands, "steps": 2}
    for stream in (False, True):
        encoder = encoder_of(
            PretrainConfig(corpus=str(root), encoder_options=how["encoder_options"])
        )
        config = PretrainConfig(corpus=str(root), stream=stream)
        found = opened(config, str(root), encoder)
        dataset = found.dataset if stream else found
        assert dataset.bands == {"s2": ("B08", "B04")}
    probed = {"probe": root, "probe_label": "landcover_class", "probe_patches": 16}
    named = pretrain(root, out_dir=tmp_path / "a", **small(**how, **probed))
    assert named.encoder.card.scores[0].sensors == "s2"
    whole = pretrain(DeepSentinelDataset(root, labels=()), out_dir=tmp_path / "b", **small(**how))
    assert named.curve("loss") == whole.curve("loss")
    with pytest.raises(ConfigError, match=r"reads s2: B08 B04;.*sensors=\['s1'\]"):
        pretrain(root, out_dir=tmp_path / "c", sensors=("s1",), **small(**how))


def test_a_report_that_a_kill_left_out_is_written_by_the_next_call(
    root: Path, tmp_path: Path
) -> None:
    first = pretrain(root, out_dir=tmp_path, **small(steps=1))
    page = (tmp_path / "report" / "report.html").read_text()
    shutil.rmtree(tmp_path / "report")
    again = pretrain(root, out_dir=tmp_path, **small(steps=1))
    assert (tmp_path / "report" / "report.html").read_text() == page
    assert again.encoder.card == first.encoder.card


def test_data_may_be_samples_streams_or_several_corpora(root: Path, tmp_path: Path) -> None:
    dataset = DeepSentinelDataset(root, labels=(), bands=("B04", "VV"))
    samples = [dataset[i] for i in range(8)]
    mixed = pretrain([root, samples], out_dir=tmp_path / "a", shares=[0.5, 0.5], **small(steps=2))
    assert mixed.encoder.card.training["data"].endswith("24 patches); list (8 patches)")
    stream = DeepSentinelStream(root, labels=(), seed=3)
    by_stream = pretrain(stream, out_dir=tmp_path / "b", **small(steps=2))
    assert "24 patches" in by_stream.encoder.card.training["data"]
    alone = pretrain(samples, out_dir=tmp_path / "c", **small(steps=2))
    assert len(alone.curve("loss")) == 2
    with pytest.raises(ConfigError, match="a stream can only be read alone"):
        pretrain([root, samples], out_dir=tmp_path / "d", stream=True, **small())


def test_a_remote_corpus_is_streamed(root: Path, tmp_path: Path, http_server) -> None:
    url = http_server.put_folder(root, "pretrain")
    options = dict(http_server.storage_options)
    far = pretrain(url, out_dir=tmp_path / "far", storage_options=options, **small(steps=4))
    near = pretrain(root, out_dir=tmp_path / "near", **small(steps=4, stream=True))
    mapped = pretrain(root, out_dir=tmp_path / "map", **small(steps=4))
    assert far.curve("loss") == near.curve("loss") != mapped.curve("loss")


def test_training_goes_on_from_an_encoder(root: Path, tmp_path: Path) -> None:
    first = pretrain(root, out_dir=tmp_path / "a", **small(steps=2))
    result = pretrain(
        root,
        out_dir=tmp_path / "b",
        encoder=first.path,
        **small(steps=1, lr=1e-9, objective="simclr"),
    )
    for ours, theirs in zip(first.encoder.parameters(), result.encoder.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert result.encoder.card.training["began with"] == str(first.path)
    with pytest.raises(UnknownNameError, match="objective"):
        pretrain(root, out_dir=tmp_path / "c", **small(objective="simclrr"))


def test_what_contradicts_itself_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lr=0"):
        pretrain("nowhere", out_dir=tmp_path, lr=0.0)
    with pytest.raises(ConfigError, match=r"ema=1\.0"):
        pretrain("nowhere", out_dir=tmp_path, ema=1.0)
    sample = [{"image_s1": torch.zeros(2, 32, 32)}] * 9
    with pytest.raises(ConfigError, match="multiple of 2"):
        pretrain(sample, out_dir=tmp_path, **small(batch_size=9, accumulate=2))
    with pytest.raises(ConfigError, match="encoder_options holds"):
        pretrain(sample, out_dir=tmp_path, **small(encoder_options={"pol": "mean"}))
    with pytest.raises(TrainingError, match="do not fill a batch"):
        pretrain(sample, out_dir=tmp_path, **small(batch_size=10))


def test_the_call_and_the_config_offer_the_same_choices() -> None:
    def default(field) -> object:
        empty = None if field.default_factory is not MISSING else inspect.Parameter.empty
        return empty if field.default is MISSING else field.default

    given = inspect.signature(pretrain).parameters.items()
    signature = {n: p.default for n, p in given if n not in {"resume", "progress", "logger"}}
    config = {field.name: default(field) for field in fields(PretrainConfig)}
    assert config.pop("out_dir") == Path("pretrain")  # a call names its folder, a command need not
    assert signature.pop("out_dir") is inspect.Parameter.empty
    assert signature == config


def test_options_that_no_checkpoint_can_hold_are_refused_at_once(
    root: Path, tmp_path: Path
) -> None:
    teachers = {"teachers": [torch.nn.Linear(1, 1)]}
    with pytest.raises(ConfigError, match=r"objective_options.*Linear.*name in the zoo"):
        pretrain(
            root, out_dir=tmp_path / "run", objective="distillation", objective_options=teachers
        )
    assert not (tmp_path / "run").exists()


def test_a_config_file_says_what_a_call_says(root: Path, tmp_path: Path) -> None:
    result = pretrain(root, out_dir=tmp_path / "a", **small(steps=2, checkpoint_every=1))
    config = read_config(
        PretrainConfig, tmp_path / "a" / "config.yaml", sets=[f"out_dir={tmp_path / 'b'}"]
    )
    again = run_config(config, Given(), progress=False)
    assert again.curve("loss") == result.curve("loss")
    weights = [(r.path / "model.safetensors").read_bytes() for r in (result, again)]
    assert weights[0] == weights[1]


def test_random_state_and_log_of_the_caller_stay(root: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    result = pretrain(root, out_dir=tmp_path, **small(steps=2))
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("patches_per_s", "megapixels_per_s", "memory_gb"):
        assert all(value > 0 for _, value in result.curve(name))
    assert all(0 <= value <= 1 for _, value in result.curve("data_wait"))
    with pytest.raises(TrainingError, match="the log has no 'los'"):
        result.curve("los")
    data = DeepSentinelDataset(root, None, labels=())
    assert embed(result.encoder, data).vectors.shape == (40, 16)
