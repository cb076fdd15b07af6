"""The Hub: publish, pin, verify, retry, work offline - against a server on loopback."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from deepsentinel import Encoder, FusionEncoder, load_encoder
from deepsentinel.encoders import hub as client
from deepsentinel.encoders.card import Card, Source
from deepsentinel.encoders.galileo_card import NANO
from deepsentinel.encoders.hub import Access, fetch
from deepsentinel.errors import HubError, WeightsError
from tests.servers.cloud import Cloud
from tests.servers.hub import TOKEN, Hub

# huggingface_hub uploads bytes in a way that its HTTP library no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "user/tiny"
CARD = Card(name="tiny", licence="MIT", limits="Use this when testing.", data_licence="CC-BY-4.0")


def tiny() -> FusionEncoder:
    return FusionEncoder("mobilenetv4_conv_small_050", levels=(1, 2))


@pytest.fixture
def published(site: Cloud, login: None) -> tuple[FusionEncoder, str]:
    encoder = tiny()
    commit = encoder.eval().push_to_hub(NAME, card=CARD)
    site.forget()
    return encoder, commit


def files(cache: Path, name: str) -> list[Path]:
    return sorted(cache.rglob(f"snapshots/*/{name}"))


def same(a: FusionEncoder, b: object) -> bool:
    s2 = torch.rand(1, 12, 32, 32) * 0.3
    with torch.no_grad():
        return torch.equal(a(s2=s2).embedding, b(s2=s2).embedding)  # type: ignore[operator]


def test_publish_then_load_by_name_and_commit(published, hub: Hub) -> None:
    encoder, commit = published
    assert len(commit) == 40
    for name in (NAME, f"hf://{NAME}", f"hf://{NAME}@{commit}"):
        assert same(encoder, load_encoder(name)), name
    loaded = load_encoder(NAME, revision=commit)
    assert (loaded.card.repository, loaded.card.revision) == (NAME, commit)
    assert (loaded.card.licence, loaded.card.sha256) == ("MIT", encoder.card.sha256)
    assert same(encoder, FusionEncoder.from_pretrained(NAME))
    assert same(encoder, Encoder.from_pretrained(NAME, revision=commit))
    stored = hub.repositories["models", NAME].commits[commit]
    assert set(stored) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    text = stored["README.md"].decode()
    snippet = text.partition("```python\n")[2].partition("```")[0]
    exec(compile(snippet, "README.md", "exec"), {})  # noqa: S102 - our own card's
    assert text.startswith("---\nlibrary_name: deepsentinel\nlicense: mit\n")
    assert f'load_encoder("{NAME}")' in text


def test_a_commit_in_the_cache_asks_nobody(published, site: Cloud) -> None:
    encoder, commit = published
    load_encoder(f"hf://{NAME}@{commit}")
    site.forget()
    with site.fault("500", times=None, methods=("GET", "HEAD")):
        assert same(encoder, load_encoder(f"hf://{NAME}@{commit}"))
        assert same(encoder, load_encoder(NAME, revision=commit, local_files_only=True))
    assert site.log == []


def test_main_that_moved_is_followed_and_a_commit_is_not(published) -> None:
    first, commit = published
    assert same(first, load_encoder(NAME))
    second = tiny().reinitialised(seed=5).eval()
    second.push_to_hub(NAME, card=CARD)
    assert same(second, load_encoder(NAME))
    assert same(first, load_encoder(NAME, revision=commit))


def test_server_down_with_the_file_in_the_cache(published, monkeypatch) -> None:
    from huggingface_hub import constants

    encoder, _ = published
    load_encoder(NAME)
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    pauses: list[float] = []
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=pauses.append))
    assert same(encoder, load_encoder(NAME))
    assert not pauses, "what is here needs no second try"
    with pytest.raises(HubError, match=r"did not answer \(.*refused.*--download"):
        load_encoder("user/other")
    assert pauses == [*client.PAUSES_S]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(encoder, load_encoder(NAME))
    with pytest.raises(HubError, match="was not asked"):
        load_encoder("user/other")


@pytest.mark.parametrize("kind", ["flip", "short", "cut", "503", "429", "reset"])
def test_one_bad_answer_heals(published, site: Cloud, kind: str) -> None:
    encoder, _ = published
    site.fault(kind, match="model.safetensors")
    assert same(encoder, load_encoder(NAME))
    assert [r.fault for r in site.gets if "safetensors" in r.path].count(kind) == 1


def test_a_download_that_breaks_off_goes_on_where_it_was(
    published, site: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    encoder, _ = published
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**14)  # what is kept when it breaks off
    site.fault("cut", match="model.safetensors")
    assert same(encoder, load_encoder(NAME))
    whole, rest = (r for r in site.gets if "safetensors" in r.path)
    assert "range" not in whole.headers
    assert rest.headers["range"].startswith("bytes=")
    assert rest.headers["range"] != "bytes=0-"
    assert rest.status == 206


def test_a_later_program_goes_on_where_a_killed_one_was(
    published, site: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    encoder, _ = published
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**14)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    site.fault("cut", match="model.safetensors")
    with (
        site.fault("503", match="model.safetensors", times=None, ranges_only=True),
        pytest.raises(HubError, match="did not answer"),
    ):
        load_encoder(NAME)
    [part] = (tmp_path / "cache").rglob("*.part")
    kept = part.stat().st_size
    assert kept > 2**14
    site.forget()
    assert same(encoder, load_encoder(NAME))
    [rest] = (r for r in site.gets if "safetensors" in r.path)
    assert rest.headers["range"] == f"bytes={kept}-"
    assert not part.exists()


def test_a_part_that_cannot_be_is_begun_anew(
    published, site: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, commit = published
    load_encoder(NAME)
    [weights] = files(tmp_path / "cache", "model.safetensors")
    blob = weights.resolve()
    good = blob.read_bytes()
    for rubbish in (good + b"more", b"x" * (len(good) // 2)):  # too long; of another file
        weights.unlink()
        blob.unlink()
        blob.with_name(f"{blob.name}.part").write_bytes(rubbish)
        assert same(encoder, load_encoder(NAME, revision=commit))
        assert blob.read_bytes() == good


def test_a_server_that_always_corrupts_is_refused(published, site: Cloud) -> None:
    site.fault("flip", match="model.safetensors", times=None)
    with pytest.raises(WeightsError, match="downloaded twice"):
        load_encoder(NAME)
    assert len([r for r in site.gets if "safetensors" in r.path]) == 2


def test_config_is_verified_too(published, site: Cloud) -> None:
    encoder, _ = published
    site.fault("flip", match="config.json")
    assert same(encoder, load_encoder(NAME))


def test_a_cached_file_is_verified_at_every_load(published, tmp_path: Path, site: Cloud) -> None:
    encoder, commit = published
    load_encoder(NAME, revision=commit)
    [weights] = files(tmp_path / "cache", "model.safetensors")
    good = weights.read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    weights.resolve().write_bytes(damaged)
    with pytest.raises(WeightsError, match="being offline"):
        load_encoder(NAME, revision=commit, local_files_only=True)
    assert same(encoder, load_encoder(NAME, revision=commit))
    assert weights.read_bytes() == good


def test_private_needs_a_token(site: Cloud, login: None, monkeypatch) -> None:
    encoder = tiny().eval()
    encoder.push_to_hub("user/secret", private=True)
    assert same(encoder, load_encoder("user/secret"))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"private or gated.*HF_TOKEN"):
        load_encoder("user/secret", cache_dir=str(Path.cwd() / "none"), token=False)
    with pytest.raises(HubError, match="HF_TOKEN"):
        encoder.push_to_hub("user/secret2", token=False)


def test_token_and_cache_dir_are_arguments_too(site: Cloud, tmp_path: Path) -> None:
    encoder = tiny().eval()
    encoder.push_to_hub("user/secret", private=True, token=TOKEN)
    there = tmp_path / "elsewhere"
    assert same(encoder, load_encoder("user/secret", token=TOKEN, cache_dir=there))
    assert files(there, "model.safetensors")
    assert not files(tmp_path / "cache", "model.safetensors")


def test_what_the_hub_does_not_have(published) -> None:
    with pytest.raises(HubError, match="no such repository"):
        load_encoder("user/nothing")
    with pytest.raises(HubError, match="no such revision"):
        load_encoder(NAME, revision="v9")
    with pytest.raises(HubError, match="disagree"):
        load_encoder(f"hf://{NAME}@v1", revision="v2")
    with pytest.raises(HubError, match="names no repository"):
        load_encoder("hf://tiny")
    with pytest.raises(HubError, match="names no repository"):
        tiny().push_to_hub("tiny")


def test_a_repository_without_an_encoder(site: Cloud, hub: Hub) -> None:
    hub.put("user/data", {"README.md": b"nothing"})
    with pytest.raises(HubError, match="no such file"):
        load_encoder("user/data")


def test_publishing_on_a_branch_leaves_main(published, hub: Hub) -> None:
    first, _ = published
    second = tiny().reinitialised(seed=5).eval()
    second.push_to_hub(NAME, revision="next")
    assert same(first, load_encoder(NAME))
    assert same(second, load_encoder(NAME, revision="next"))


class TestRows:
    """A row's file: pinned by revision, sha256, a prefix of it, or by what the Hub announces."""

    DATA = b"weights" * 1000

    def source(self, hub: Hub, **pins: str | None) -> Source:
        commit = hub.put("lab/model", {"models/w.pt": self.DATA})
        return Source(repository="lab/model", path="models/w.pt", **{"revision": commit, **pins})

    @pytest.mark.parametrize("pin", ["sha256", "sha256_prefix", None])
    def test_a_changed_body_heals_once(self, site: Cloud, hub: Hub, pin: str | None) -> None:
        import hashlib

        found = hashlib.sha256(self.DATA).hexdigest()
        pins = {"sha256": found, "sha256_prefix": found[:8]}
        source = self.source(hub, **{k: v for k, v in pins.items() if k == pin})
        site.fault("flip", match="w.pt")
        assert fetch(source, Access()).read_bytes() == self.DATA
        site.forget()
        assert fetch(source, Access()).read_bytes() == self.DATA
        assert site.log == []

    @pytest.mark.parametrize("pin", ["sha256", "sha256_prefix", None])
    def test_a_damaged_file_of_the_cache_is_fetched_anew(
        self, site: Cloud, hub: Hub, pin: str | None
    ) -> None:
        """What pins it where nothing is published is the Hub's own hash, kept from the first time."""
        import hashlib

        found = hashlib.sha256(self.DATA).hexdigest()
        pins = {"sha256": found, "sha256_prefix": found[:8]}
        source = self.source(hub, **{k: v for k, v in pins.items() if k == pin})
        path = fetch(source, Access())
        assert path.resolve().name == found
        path.resolve().write_bytes(self.DATA[:-1] + b"!")
        site.forget()
        with pytest.raises(WeightsError, match="damaged in the cache, and being offline"):
            fetch(source, Access(local_files_only=True))
        assert site.log == []
        assert fetch(source, Access()).read_bytes() == self.DATA
        assert len(site.gets) == 1

    def test_another_file_than_the_row_pins_is_refused(self, site: Cloud, hub: Hub) -> None:
        source = self.source(hub, sha256="0" * 64)
        with pytest.raises(WeightsError, match=f"expected {'0' * 64}.*downloaded twice"):
            fetch(source, Access())
        assert len(site.gets) == 2

    def test_without_a_revision_the_hash_pins(self, site: Cloud, hub: Hub) -> None:
        import hashlib

        source = self.source(hub, revision=None, sha256=hashlib.sha256(self.DATA).hexdigest())
        fetch(source, Access())
        hub.put("lab/model", {"models/w.pt": b"other"})
        site.forget()
        assert fetch(source, Access()).read_bytes() == self.DATA
        assert site.log == []


def test_galileo_comes_from_the_hub(
    site: Cloud, hub: Hub, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from deepsentinel.zoo import load

    file = shared_data / "weights" / "galileo-nano" / "encoder.pt"
    commit = hub.put("nasaharvest/galileo", {"models/nano/encoder.pt": file.read_bytes()})
    sources = {"both": replace(NANO.sources["both"], revision=commit)}
    rows = tuple(
        replace(row, card=replace(row.card, sources=sources)) if row.name == NANO.name else row
        for row in load.ROWS
    )
    monkeypatch.setattr(load, "ROWS", rows)
    encoder = load_encoder("galileo-nano", patch_size=4)
    assert encoder.strides == (4,)
    local = load_encoder("galileo-nano", weights=file, patch_size=4)
    s1 = torch.full((1, 2, 32, 32), -12.0)
    assert torch.equal(encoder(s1=s1).embedding, local(s1=s1).embedding)


@pytest.mark.parametrize("name", ["resnet50-decur", "vit-small-softcon"])
@torch.inference_mode()
def test_public_rows_come_from_the_hub(
    name: str, site: Cloud, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random tensors of the published shapes; a prefix of the hash pins one, nothing the other."""
    from dataclasses import replace

    from deepsentinel.zoo import load
    from tests.zoo.twins import PUBLIC, write_files

    row, files = write_files(PUBLIC[name], tmp_path)
    sources = {}
    for key, source in row.card.sources.items():
        commit = hub.put(source.repository, {source.path: files[key].read_bytes()})
        sources[key] = replace(source, revision=commit)
    monkeypatch.setattr(load, "ROWS", (replace(row, card=replace(row.card, sources=sources)),))
    site.fault("flip", match=sources["s2"].path)
    encoder = load_encoder(name)
    tensors = torch.load(files["s2"], weights_only=True)
    found = encoder.state_dict()
    shared = [k for k in tensors if f"towers.s2.net.{k}" in found]
    assert len(shared) > 100
    assert all(torch.equal(found[f"towers.s2.net.{k}"], tensors[k]) for k in shared)
    assert len([r for r in site.gets if sources["s2"].path in r.path]) == 2  # healed once
    site.forget()
    s2 = torch.rand(1, 12, 64, 64) * 0.3
    again = load_encoder(name, local_files_only=True)
    assert torch.equal(again(s2=s2).embedding, encoder(s2=s2).embedding)
    assert site.log == []


def test_environment_is_that_of_every_hub_user(
    published, site: Cloud, tmp_path: Path, run_python: Callable[..., str]
) -> None:
    encoder, commit = published
    code = f"""
import io, sys
from deepsentinel import errors, load_encoder
class Terminal(io.StringIO):
    isatty = lambda self: True
sys.stderr = shown = Terminal()
print(load_encoder("hf://{NAME}@{commit}").card.sha256)
print("bar of model.safetensors:", "model.safetensors" in shown.getvalue())
try:
    load_encoder("user/other")
except errors.HubError as error:
    print(error)
"""
    environment = {
        "HF_ENDPOINT": site.gate.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    told = run_python(code, environment)
    assert encoder.card.sha256 in told
    assert "bar of model.safetensors: True" in told
    assert "no such repository" in told
    assert files(tmp_path / "home" / "hub", "config.json")
    site.forget()
    told = run_python(code, environment | {"HF_HUB_OFFLINE": "1"})
    assert encoder.card.sha256 in told
    assert "the Hub was not asked" in told
    assert site.log == []


def test_config_names_the_class(published, hub: Hub) -> None:
    _, commit = published
    config = json.loads(hub.repositories["models", NAME].commits[commit]["config.json"])
    assert (config["kind"], config["card"]["name"]) == ("FusionEncoder", "tiny")


def test_publishing_works_as_the_page_says(
    site: Cloud, login: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text(encoding="utf-8")
    section = page.partition("## Publishing your own")[2].partition("\n## ")[0]
    [local, hub] = [block.partition("\n")[2] for block in section.split("```")[1::2]]
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"load_encoder": load_encoder}
    exec(compile(local + hub, "zoo.md", "exec"), names)  # noqa: S102 - our own page
    assert names["encoder"].card.revision == names["commit"]  # type: ignore[attr-defined]
    assert names["encoder"].card.name == "coast-small"  # type: ignore[attr-defined]


def test_a_row_is_added_as_the_page_says(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of the page, with what is real of Galileo nano in place of the zeros."""
    from deepsentinel import list_encoders
    from deepsentinel.zoo import load

    page = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text(encoding="utf-8")
    code = page.partition("## Adding a row")[2].split("```")[1].partition("\n")[2]
    sha256 = NANO.sources["both"].sha256
    assert sha256 is not None
    names: dict[str, object] = {}
    exec(compile(code.replace('"0" * 64', repr(sha256)), "zoo.md", "exec"), names)  # noqa: S102
    monkeypatch.setattr(load, "ROWS", (*load.ROWS, names["row"]))
    assert "lab-model" in [card.name for card in list_encoders()]
    file = shared_data / "weights" / "galileo-nano" / "encoder.pt"
    s1 = torch.full((1, 2, 32, 32), -12.0)
    encoder = load_encoder("lab-model", weights=file)
    assert encoder.card.name == "lab-model"
    found = encoder(s1=s1).embedding
    assert torch.equal(found, load_encoder("galileo-nano", weights=file)(s1=s1).embedding)
    with pytest.raises(WeightsError, match="not the file that lab-model pins"):
        load_encoder("lab-model", weights=file.with_name("config.json"))
