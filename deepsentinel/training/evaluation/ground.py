"""How near the test patches of an evaluation lie to those that were learnt from."""

import warnings
from collections.abc import Sequence

from deepsentinel.errors import LeakWarning
from deepsentinel.training.evaluation.bench import Bench
from deepsentinel.training.finetuning.leak import Leak, closeness


def ground_notes(bench: Bench, *, side_m: float) -> tuple[str, ...]:
    """What a report must say of test patches on or beside ground that was learnt from.

    Args:
        bench: with the folds; those of the first seed are looked at.
        side_m: side of a patch in metres.

    Returns:
        A sentence, or none where all lie apart or places are not known.

    Warns:
        LeakWarning: test patches share ground with training patches, or the corpus's own splits
            are random.
    """
    lonlat = bench.units.lonlat
    folds = bench.folds(bench.protocol.seed)
    found = [closeness(lonlat[f.train], lonlat[f.test], side_m=side_m) for f in folds]
    leaks = [leak for leak in found if leak is not None]
    overlapping, neighbours, count = (
        sum(getattr(leak, name) for leak in leaks)
        for name in ("overlapping", "neighbours", "count")
    )
    if not neighbours:
        return ()
    note = (
        f"Of {count} test patches {overlapping} lie on ground that was learnt from and "
        f"{neighbours - overlapping} beside it, which may flatter every row. {_advice(bench)}"
    )
    if overlapping or (bench.splits is not None and _random(leaks)):
        warnings.warn(note, LeakWarning, stacklevel=3)
    return (note,)


def _random(leaks: Sequence[Leak]) -> bool:
    return any(leak.random for leak in leaks)


def _advice(bench: Bench) -> str:
    if bench.given:
        return "They are in blocks of yours that touch."
    if bench.splits is not None or bench.protocol.block_km is None:
        return "Folds of blocks (folds=5, block_km=5) keep most ground apart."
    return (
        "Larger blocks (block_km) touch along fewer edges, places of your own (blocks=) need not."
    )
