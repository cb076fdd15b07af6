"""`deepsentinel demo`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from deepsentinel.cli.common import Json, Seed, err, out, print_json, rows_table, say


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
        print_json(json.loads((out_dir / "metrics.json").read_text(encoding="utf-8")))
        return
    origin = "synthetic scenes" if result.synthetic else result.corpus
    rows = [(name, *(f"{s[c]:.3f}" for c in COLUMNS)) for name, s in result.rows.items()]
    out.print(rows_table(f"Test split of {origin}", ("row", *COLUMNS), rows))
    out.print("s1, s2, both: what the encoder was shown. band_stats, random: controls on both.")
    for what, path in result.files.items():
        say(f"{what:>20}  {path}")
