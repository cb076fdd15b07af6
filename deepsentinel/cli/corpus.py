"""Looking at a corpus: `info`, `stats`, `verify`, `plot`."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from deepsentinel.cli.common import (
    ClientOptions,
    CorpusRoot,
    Json,
    Payer,
    Seed,
    Split,
    access,
    cell,
    counting,
    out,
    print_json,
    rows_table,
    say,
)
from deepsentinel.errors import UnknownNameError


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
    from deepsentinel.corpus.opening import open_corpus

    opened = open_corpus(corpus, **access(requester_pays, storage_option))
    sizes = corpus_bytes(opened.index, opened.info)
    if as_json:
        print_json({**opened.info.to_json(), "bytes": sizes})
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
    table = Table(title=Text(f"{facts.name}, version {facts.version}"), title_justify="left")
    table.add_column("fact")
    table.add_column("value", overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(cell(value)))
    out.print(table)
    if opened.unfinished:
        out.print(
            "This corpus is being written, or its writer was stopped: run it again to finish."
        )


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
    from deepsentinel.corpus.opening import open_corpus
    from deepsentinel.corpus.stats import corpus_stats

    opened = open_corpus(corpus, **access(requester_pays, storage_option))
    with counting("reading", quiet=as_json) as step:
        found = corpus_stats(opened, split=split, max_patches=max_patches, seed=seed, progress=step)
    if as_json:
        print_json(found.to_json())
        return
    header = ("band", "mean", "std", "min", "p1", "p50", "p99", "max", "NaN")
    rows = [_band_row(b) for b in found.bands]
    where = f"split {found.split}" if found.split else "all splits"
    out.print(rows_table(f"{found.name}, {where}, {found.patches} patches", header, rows))
    out.print("Sentinel-1 in dB, Sentinel-2 in reflectance; NaN is the share not observed.")
    if found.offset_suspects is not None:
        out.print(
            f"{found.offset_suspects:.0%} of the patches are so bright in the visible that a baseline "
            "offset may be left in; haze, snow and bright ground look the same.",
            soft_wrap=True,
        )


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

    with counting("checking", quiet=as_json) as step:
        report = run(corpus, progress=step, **access(requester_pays, storage_option))
    if as_json:
        print_json({**asdict(report), "ok": report.ok})
    else:
        say(str(report))
    if not report.ok:
        raise typer.Exit(1)


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
            help="Mask or boxes to draw, may be repeated; the first of each if not given.",
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

    client = access(requester_pays, storage_option)
    facts = DeepSentinelDataset(corpus, split=None, labels=(), **client).info
    firsts = {s.kind: s.name for s in reversed(facts.labels) if s.kind in {"mask", "boxes"}}
    chosen = tuple(label or firsts.values())
    dataset = DeepSentinelDataset(corpus, split=None, labels=chosen, **client)
    sample = dataset[_place(dataset.corpus, patch_id)]
    target = path or Path(f"{sample['meta'].id.replace('/', '_')}.png")
    target.parent.mkdir(parents=True, exist_ok=True)
    dataset.plot(sample).savefig(target, dpi=150, format="png")
    say(f"wrote {target}")


def _label_words(label: Any) -> str:
    if label.scheme is None:
        return str(label.kind)
    return f"{label.kind}, {len(label.scheme)} classes of {label.scheme.name}"


def _band_row(band: Any) -> list[str]:
    digits = 2 if band.sensor == "s1" else 4
    values = (band.mean, band.std, band.minimum, band.p1, band.p50, band.p99, band.maximum)
    numbers = ["-" if math.isnan(v) else f"{v:.{digits}f}" for v in values]
    return [band.band, *numbers, "-" if math.isnan(band.nan_share) else f"{band.nan_share:.1%}"]


def _place(corpus: Any, patch_id: str) -> int:
    """Number of the patch with that id or, where no patch is called so, that number."""
    try:
        return int(corpus.find(patch_id))
    except UnknownNameError as error:
        if patch_id.isdecimal() and int(patch_id) < len(corpus):
            return int(patch_id)
        numbers = f"A number from 0 to {len(corpus) - 1} is understood too."
        raise UnknownNameError(f"{error} {numbers}") from None
