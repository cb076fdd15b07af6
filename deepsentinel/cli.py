"""The command line: one verb per public function."""

import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

import deepsentinel
from deepsentinel.bands import check_sensors
from deepsentinel.errors import (
    DeepSentinelError,
    EncoderNotFoundError,
    SourceError,
    StoreError,
    UnknownNameError,
    nearest,
)

app = typer.Typer(
    name="deepsentinel",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Sentinel-1 and Sentinel-2 patches to embeddings, trained heads and maps.",
)
out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]
CorpusRoot = Annotated[
    str,
    typer.Argument(
        help="Folder or URL of a corpus: gs://, az://, s3://, https://, hf://.", show_default=False
    ),
]
Payer = Annotated[
    str | None,
    typer.Option(
        "--requester-pays",
        metavar="PROJECT",
        help="Who pays, where the bucket asks it: a Google project, on S3 true.",
        show_default=False,
    ),
]
ClientOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="KEY=VALUE",
        help="Argument of the storage client, such as anon=true; may be repeated.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask about large or billed ones.")]
Split = Annotated[
    str | None, typer.Option(help="Only this split; all patches if not given.", show_default=False)
]
Seed = Annotated[int, typer.Option(help="Every random choice follows from it.")]


INTERRUPTED = 130
"""Exit code that typer makes of Ctrl-C, as shells do."""


class Task(StrEnum):
    """What a head is trained for."""

    segmentation = "segmentation"
    classification = "classification"


def main() -> None:
    """Run the command line; an error of ours is one message, not a traceback, a warning one line."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # called by position
    try:
        app()
    except DeepSentinelError as error:
        err.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            err.print("Stopped. What was completed is kept; the same command continues from there.")
        raise


@cache  # each warning once, however many encoders and contexts give it
def _show_once(name: str, message: str) -> None:
    err.print(f"[yellow]{name}[/]: ", end="")
    err.print(message, markup=False, highlight=False, soft_wrap=True)


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    _show_once(category.__name__, str(message))


def _version(asked: bool) -> None:  # noqa: FBT001 (typer's callback)
    if asked:
        out.print(deepsentinel.__version__)
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _print_json(value: Any) -> None:
    print(_json_text(value))  # noqa: T201


def _json_text(value: Any) -> str:
    return json.dumps(_without_nan(value), indent=2, allow_nan=False, default=str)


def _without_nan(value: Any) -> Any:
    """The value with `None` for numbers that are not finite, which JSON does not know."""
    if isinstance(value, Mapping):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for place, name in enumerate(header):
        first = place == 0
        table.add_column(name, justify="left" if first else "right", no_wrap=first)
    for row in rows:
        table.add_row(*(_cell(v) for v in row))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of source files; of the original layout also a URL or catalogue name.",
            show_default=False,
        ),
    ],
    dest: Annotated[Path, typer.Argument(help="Folder of the new corpus.", show_default=False)],
    *,
    kind: Annotated[
        str | None, typer.Option(help="Kind of source; detected if not given.", show_default=False)
    ] = None,
    patch_size: Annotated[
        int | None,
        typer.Option(help="Pixels of a side; larger sources are tiled.", show_default=False),
    ] = None,
    boa_offset: Annotated[
        str,
        typer.Option(help="auto (names and metadata), detect (pixels too), 0 or -1000."),
    ] = "auto",
    resampling: Annotated[
        str, typer.Option(help="How 20 m and 60 m bands come to 10 m: bilinear, nearest, cubic.")
    ] = "bilinear",
    block_m: Annotated[float, typer.Option(help="Metres of a side of a split block.")] = 10_000,
    seed: Seed = 0,
    s1_range: Annotated[
        tuple[float, float] | None,
        typer.Option(help="LO HI in dB of 8-bit radar whose scale you know.", show_default=False),
    ] = None,
    s2_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="LO HI in reflectance of 8-bit S2 whose scale you know.", show_default=False
        ),
    ] = None,
    s2_level: Annotated[str, typer.Option(help="L2A or L1C, where a source holds both.")] = "L2A",
    splits: Annotated[str, typer.Option(help="Share of the blocks in each split.")] = (
        "train=0.7,val=0.15,test=0.15"
    ),
    name: Annotated[
        str | None, typer.Option(help="Name of the corpus.", show_default=False)
    ] = None,
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
    as_json: Json = False,
) -> None:
    """Make a corpus of files: GeoTIFF pairs, BigEarthNet, SSL4EO-S12, the original layout, ...

    A killed run continues where it stopped when the same command is given again.

    Example: [bold]deepsentinel convert ssl4eo/ corpus/ --patch-size 256[/]
    """
    from deepsentinel.corpus.convert import convert as run

    with _progress("converting", quiet=as_json) as step:
        report = run(
            source,
            dest,
            kind=kind,
            patch_size=patch_size,
            boa_offset=_offset(boa_offset),
            resampling=resampling,
            block_m=block_m,
            splits=_shares(splits),
            seed=seed,
            name=name,
            s1_range=s1_range,
            s2_range=s2_range,
            s2_level=s2_level,
            progress=step,
            **_access(requester_pays, storage_option),
        )
    if as_json:
        _print_json(report.to_json())
    else:
        out.print(str(report), markup=False, highlight=False, soft_wrap=True)


@app.command()
def info(
    corpus: CorpusRoot,
    *,
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
    as_json: Json = False,
) -> None:
    """What a corpus is and holds, and the bytes that reading or downloading it moves.

    Example: [bold]deepsentinel info corpus/[/]
    """
    from deepsentinel.corpus.copying import bytes_words, corpus_bytes
    from deepsentinel.corpus.read import open_corpus

    opened = open_corpus(corpus, **_access(requester_pays, storage_option))
    sizes = corpus_bytes(opened.index, opened.info)
    if as_json:
        _print_json({**opened.info.to_json(), "bytes": sizes})
        return
    facts = opened.info
    rows: list[tuple[str, Any]] = [
        ("patches", f"{facts.count} of {facts.patch_size} x {facts.patch_size} px"),
        ("resolution", f"{facts.resolution_m:g} m"),
        *((f"bands {s}", " ".join(facts.bands[s])) for s in facts.sensors),
        *((f"split {name}", count) for name, count in facts.splits.items()),
        *((f"label {label.name}", _label_words(label)) for label in facts.labels),
        ("also", " ".join(facts.extras) or None),
        *((f"bytes of {name}", bytes_words(size)) for name, size in sizes.items()),
        ("bytes in all", bytes_words(sum(sizes.values()))),
        ("licence", facts.licence),
        ("synthetic", "yes" if facts.synthetic else "no"),
        ("description", facts.description or None),
    ]
    table = Table(title=f"{facts.name}, version {facts.version}", title_justify="left")
    table.add_column("fact")
    table.add_column("value", overflow="fold")
    for name, value in rows:
        table.add_row(name, _cell(value))
    out.print(table)
    if opened.unfinished:
        out.print(
            "This corpus is being written, or its writer was stopped: run it again to finish."
        )


@app.command()
def stats(
    corpus: CorpusRoot,
    *,
    split: Split = None,
    max_patches: Annotated[
        int | None,
        typer.Option(help="Read at most so many, drawn by the seed.", show_default=False),
    ] = None,
    seed: Seed = 0,
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
    as_json: Json = False,
) -> None:
    """Per band: mean, spread, percentiles, share not observed; and patches that look offset.

    Example: [bold]deepsentinel stats corpus/ --split train[/]
    """
    from deepsentinel.corpus.read import open_corpus
    from deepsentinel.corpus.stats import corpus_stats

    opened = open_corpus(corpus, **_access(requester_pays, storage_option))
    with _progress("reading", quiet=as_json) as step:
        found = corpus_stats(opened, split=split, max_patches=max_patches, seed=seed, progress=step)
    if as_json:
        _print_json(found.to_json())
        return
    header = ("band", "mean", "std", "min", "p1", "p50", "p99", "max", "NaN")
    rows = [_band_row(b) for b in found.bands]
    where = f"split {found.split}" if found.split else "all splits"
    out.print(_rows(f"{found.name}, {where}, {found.patches} patches", header, rows))
    out.print("Sentinel-1 in dB, Sentinel-2 in reflectance; NaN is the share not observed.")
    if found.offset_suspects is not None:
        out.print(
            f"{found.offset_suspects:.0%} of the patches are so bright in the visible that a baseline "
            "offset may be left in; haze, snow and bright ground look the same.",
            soft_wrap=True,
        )


@app.command()
def verify(
    corpus: CorpusRoot,
    *,
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
    as_json: Json = False,
) -> None:
    """Check every stored byte of a corpus; names each bad patch and exits with 1 if there is one.

    Example: [bold]deepsentinel verify corpus/[/]
    """
    from deepsentinel.corpus.verify import verify as run

    with _progress("checking", quiet=as_json) as step:
        report = run(corpus, progress=step, **_access(requester_pays, storage_option))
    if as_json:
        _print_json({**asdict(report), "ok": report.ok})
    else:
        out.print(str(report), markup=False, highlight=False, soft_wrap=True)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def download(
    src: CorpusRoot,
    dest: Annotated[Path, typer.Argument(help="Folder of the copy.", show_default=False)],
    *,
    split: Split = None,
    where: Annotated[
        str | None,
        typer.Option(
            help="Only patches for which this holds, such as 'cloud < 10'.", show_default=False
        ),
    ] = None,
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(
            help="West, south, east, north in degrees: patches with their centre inside.",
            metavar="W S E N",
            show_default=False,
        ),
    ] = None,
    dates: Annotated[
        str | None,
        typer.Option(
            help="First and last day: patches that either sensor observed then.",
            metavar="A/B",
            show_default=False,
        ),
    ] = None,
    sensors: Annotated[
        str | None, typer.Option(help="s1, s2 or s1,s2; all if not given.", show_default=False)
    ] = None,
    max_patches: Annotated[
        int | None, typer.Option(help="Only so many, the first ones.", show_default=False)
    ] = None,
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Copy a corpus, or the part that is asked for, to this machine; every checksum is compared.

    A killed run continues where it stopped when the same command is given again.

    Example: [bold]deepsentinel download gs://bucket/corpus corpus/ --split train --where "cloud < 10"[/]
    """
    from deepsentinel.corpus.transfer import download as run

    chosen = (
        None if sensors is None else check_sensors([part.strip() for part in sensors.split(",")])
    )
    with _moving("downloading", quiet=as_json) as step:
        report = run(
            src,
            dest,
            split=split,
            where=where,
            bbox=bbox,
            dates=dates,
            sensors=chosen,
            max_patches=max_patches,
            confirm=_asking(yes=yes),
            progress=step,
            **_access(requester_pays, storage_option),
        )
    _transferred(report, as_json=as_json)


@app.command()
def upload(
    src: Annotated[Path, typer.Argument(help="Folder of the corpus.", show_default=False)],
    dest: Annotated[
        str, typer.Argument(help="URL to publish it at: gs://, az://, s3://.", show_default=False)
    ],
    *,
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Publish a corpus: the index comes last, so that nobody reads a part of it.

    A killed run continues where it stopped when the same command is given again.

    Example: [bold]deepsentinel upload corpus/ gs://bucket/corpus[/]
    """
    from deepsentinel.corpus.upload import upload as run

    with _moving("uploading", quiet=as_json) as step:
        report = run(
            src,
            dest,
            confirm=_asking(yes=yes),
            progress=step,
            **_access(requester_pays, storage_option),
        )
    _transferred(report, as_json=as_json)


@app.command()
def plot(
    corpus: CorpusRoot,
    patch_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a patch, or its number.")],
    *,
    path: Annotated[
        Path | None,
        typer.Option("--out", help="PNG to write; ID.png if not given.", show_default=False),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Mask or boxes to draw, may be repeated; the first mask if not given.",
            show_default=False,
        ),
    ] = None,
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
) -> None:
    """Draw one patch: true colour, radar composite, mask or boxes.

    Example: [bold]deepsentinel plot corpus/ 0 --out patch.png[/]
    """
    from deepsentinel.datasets.dataset import DeepSentinelDataset

    access = _access(requester_pays, storage_option)
    facts = DeepSentinelDataset(corpus, split=None, labels=(), **access).info
    masks = [spec.name for spec in facts.labels if spec.kind == "mask"]
    dataset = DeepSentinelDataset(corpus, split=None, labels=tuple(label or masks[:1]), **access)
    sample = dataset[_place(dataset.corpus, patch_id)]
    target = path or Path(f"{sample['meta'].id.replace('/', '_')}.png")
    target.parent.mkdir(parents=True, exist_ok=True)
    dataset.plot(sample).savefig(target, dpi=150, format="png")
    out.print(f"wrote {target}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def encoders(
    name: Annotated[
        str | None, typer.Argument(help="Show the whole card of this encoder.", show_default=False)
    ] = None,
    *,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch its weights for work without a network.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The encoders that can be loaded by name: bands, size, licence; or one card.

    Example: [bold]deepsentinel encoders galileo-nano --download[/]
    """
    from deepsentinel.zoo.load import download_encoder, list_encoders
    from deepsentinel.zoo.table import facts

    cards = {card.name: card for card in list_encoders()}
    if name is not None and name not in cards:
        raise EncoderNotFoundError(f"there is no encoder {name!r}. {nearest(name, cards)}")
    if download:
        if name is None:
            raise EncoderNotFoundError(f"--download needs a name. {nearest('', cards)}")
        files = {key: str(path) for key, path in download_encoder(name).items()}
        if as_json:
            _print_json({"name": name, "files": files})
            return
        for path in files.values():
            out.print(f"{path}: verified", markup=False, highlight=False, soft_wrap=True)
    elif as_json:
        _print_json([facts(c) for c in cards.values()] if name is None else facts(cards[name]))
    elif name is not None:
        # A pin cut short is none: where no terminal sets a width, nothing is folded.
        wide = out if out.is_terminal else Console(width=240)
        wide.print(Markdown(_without_front_matter(cards[name].to_markdown())))
    else:
        header = ("name", "sensors", "embedding", "strides", "parameters", "licence")
        rows = [
            (c.name, "+".join(c.sensors), c.embed_dim, _joined(c.strides), c.parameters, c.licence)
            for c in cards.values()
        ]
        out.print(_rows("Encoders", header, rows))
        out.print(
            "deepsentinel encoders NAME shows a card: bands, units, training, scores, limits."
        )


@app.command()
def finetune(
    corpus: CorpusRoot,
    *,
    task: Annotated[Task, typer.Option(help="What to train.")] = Task.segmentation,
    label: Annotated[
        str | None,
        typer.Option(help="Label to learn, where the corpus has several.", show_default=False),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="Name or folder; `deepsentinel encoders` lists the names.")
    ] = "deepsentinel-nano",
    decoder: Annotated[str, typer.Option(help="unet, unetplusplus, fpn or linear.")] = "unet",
    sensors: Annotated[str, typer.Option(help="s1, s2 or s1,s2.")] = "s1,s2",
    epochs: Annotated[int, typer.Option(help="Passes over the train split.")] = 20,
    lr: Annotated[float, typer.Option(help="Learning rate of the head.")] = 1e-3,
    freeze_encoder: Annotated[
        bool, typer.Option("--freeze-encoder", help="Train the head only.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Patches a batch.")] = 16,
    num_workers: Annotated[int, typer.Option(help="Worker processes that read.")] = 0,
    seed: Seed = 0,
    out_dir: Annotated[
        Path, typer.Option("--out", help="Folder of checkpoints and scores.")
    ] = Path("finetune"),
    requester_pays: Payer = None,
    storage_option: ClientOptions = None,
    as_json: Json = False,
) -> None:
    """Train a head, and the encoder unless frozen, on the train split; score it on test.

    A killed run continues where it stopped when the same command is given again.

    Example: [bold]deepsentinel finetune corpus/ --task segmentation --epochs 30 --out run/[/]
    """
    import torch

    from deepsentinel.datasets.dataset import DeepSentinelDataset
    from deepsentinel.training.evaluate import evaluate_model
    from deepsentinel.training.finetune import finetune as run
    from deepsentinel.training.setup import model_for, pick_label
    from deepsentinel.zoo.load import load_encoder

    asked = check_sensors(tuple(part.strip() for part in sensors.split(",")))
    access = _access(requester_pays, storage_option)
    spec = pick_label(DeepSentinelDataset(corpus, None, labels=(), **access).info, task, label)
    train, val, test = (
        DeepSentinelDataset(corpus, split, sensors=asked, labels=(spec.name,), **access)
        for split in ("train", "val", "test")
    )
    pretrained = load_encoder(encoder)
    torch.manual_seed(seed)  # the head starts at random
    result = run(
        model_for(pretrained, spec, decoder=decoder),
        train,
        val,
        out_dir=out_dir,
        epochs=epochs,
        lr=lr,
        freeze_encoder=freeze_encoder,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
        progress=not as_json,
    )
    scores = evaluate_model(result.model, test)
    facts = {"best_epoch": result.best_epoch, result.metric: result.best_score, "test": scores}
    (out_dir / "scores.json").write_text(_json_text(facts) + "\n", encoding="utf-8")
    if as_json:
        _print_json({**facts, "model": str(result.best)})
        return
    out.print(str(result), markup=False, highlight=False, soft_wrap=True)
    out.print(_rows("On the test split", ("score", "value"), list(scores.items())))


@app.command()
def demo(
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A corpus, or a folder that convert reads; synthetic scenes if not given.",
            show_default=False,
        ),
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of all results.")] = Path(
        "deepsentinel-demo"
    ),
    label: Annotated[
        str | None,
        typer.Option(help="Mask to learn, where there are several.", show_default=False),
    ] = None,
    patches: Annotated[int, typer.Option(help="Synthetic patches to make.")] = 240,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes of each head over the train split; enough for 400 steps if not given.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Everything once, offline: a corpus, embeddings, trained heads, scores, pictures.

    Example: [bold]deepsentinel demo --out demo/[/]
    """
    from deepsentinel.demo import COLUMNS
    from deepsentinel.demo import demo as run

    console = err if as_json else out
    result = run(
        data,
        out_dir,
        label=label,
        patches=patches,
        epochs=epochs,
        seed=seed,
        say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    if as_json:
        _print_json(json.loads((out_dir / "metrics.json").read_text(encoding="utf-8")))
        return
    origin = "synthetic scenes" if result.synthetic else result.corpus
    rows = [(name, *(f"{s[c]:.3f}" for c in COLUMNS)) for name, s in result.rows.items()]
    out.print(_rows(f"Test split of {origin}", ("row", *COLUMNS), rows))
    out.print("s1, s2, both: what the encoder was shown. band_stats, random: controls on both.")
    for what, path in result.files.items():
        out.print(f"{what:>20}  {path}", markup=False, highlight=False, soft_wrap=True)


def _access(payer: str | None, options: list[str] | None) -> dict[str, Any]:
    """What the functions of the library call `requester_pays` and `storage_options`."""
    pays = True if payer is not None and payer.lower() == "true" else payer
    pairs = [option.partition("=") for option in options or ()]
    for key, found, _ in pairs:
        if not key or not found:
            raise StoreError(
                f"--storage-option {key!r} is not understood; give KEY=VALUE, such as anon=true."
            )
    return {
        "requester_pays": pays,
        "storage_options": {key: _value(text) for key, _, text in pairs} or None,
    }


def _value(text: str) -> Any:
    """A value as JSON where it is JSON, else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _asking(*, yes: bool) -> Callable[[Any], bool]:
    """Say what a transfer moves, and ask where it is large or billed."""

    def confirm(plan: Any) -> bool:
        err.print(f"{plan}.", markup=False, highlight=False, soft_wrap=True)
        if yes or not (plan.large or plan.billed) or not plan.left:
            return True
        if not sys.stdin.isatty():
            err.print("Add --yes to go on without being asked.")
            return False
        return typer.confirm("Go on?", err=True)

    return confirm


def _transferred(report: Any, *, as_json: bool) -> None:
    if as_json:
        _print_json(report.to_json())
    else:
        out.print(str(report), markup=False, highlight=False, soft_wrap=True)
    if not report.ok:
        raise typer.Exit(1)


def _offset(text: str) -> str | int:
    if text in {"auto", "detect"}:
        return text
    try:
        return int(text)
    except ValueError:
        raise SourceError(
            f"--boa-offset {text!r} is not understood; give auto, detect, 0 or -1000."
        ) from None


def _shares(text: str) -> dict[str, float]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {split.strip(): float(share) for split, share in pairs}
    except ValueError:
        raise SourceError(
            f"--splits {text!r} is not understood; give such as train=0.7,val=0.15,test=0.15."
        ) from None


def _place(corpus: Any, patch_id: str) -> int:
    """Number of the patch with that id or, where no patch is called so, that number."""
    try:
        return int(corpus.find(patch_id))
    except UnknownNameError as error:
        if patch_id.isdecimal() and int(patch_id) < len(corpus):
            return int(patch_id)
        numbers = f"A number from 0 to {len(corpus) - 1} is understood too."
        raise UnknownNameError(f"{error} {numbers}") from None


def _label_words(label: Any) -> str:
    if label.scheme is None:
        return str(label.kind)
    return f"{label.kind}, {len(label.scheme)} classes of {label.scheme.name}"


def _band_row(band: Any) -> list[str]:
    digits = 2 if band.sensor == "s1" else 4
    values = (band.mean, band.std, band.minimum, band.p1, band.p50, band.p99, band.maximum)
    numbers = ["-" if math.isnan(v) else f"{v:.{digits}f}" for v in values]
    return [band.band, *numbers, "-" if math.isnan(band.nan_share) else f"{band.nan_share:.1%}"]


def _joined(values: Sequence[int]) -> str:
    return " ".join(str(v) for v in values)


def _without_front_matter(text: str) -> str:
    return text.split("---\n", 2)[2] if text.startswith("---\n") else text


@contextmanager
def _progress(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar that a long function moves by telling (done, total)."""
    hidden = quiet or not err.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=err, disable=hidden) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _moving(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes and their rate, which appears when the first are told."""
    hidden = quiet or not err.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    rate = (TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, *rate, console=err, disable=hidden)

    def step(done: int, total: int) -> None:
        if not bar.tasks:
            bar.start()
            bar.add_task(what, total=total, completed=done)
        bar.update(bar.tasks[0].id, completed=done)

    try:
        yield step
    finally:
        bar.stop()
