"""`deepsentinel convert`."""

from pathlib import Path
from typing import Annotated

import typer

from deepsentinel.cli.common import (
    ClientOptions,
    Json,
    Payer,
    Seed,
    access,
    counting,
    print_json,
    say,
)
from deepsentinel.errors import SourceError


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

    with counting("converting", quiet=as_json) as step:
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
            **access(requester_pays, storage_option),
        )
    if as_json:
        print_json(report.to_json())
    else:
        say(str(report))


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
