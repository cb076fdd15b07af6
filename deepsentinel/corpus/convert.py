"""Source files in, corpus out: `convert`.

What is planned depends on the source and the options alone, so that a conversion that was stopped
anywhere continues and ends with the same bytes. The options lie in the corpus as `convert.json`,
with the splits of its blocks; a run with other options is refused.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from deepsentinel.corpus.format import INFO_PATH, dump_json
from deepsentinel.corpus.plan import (
    Plan,
    SplitRule,
    check_offset,
    corpus_info,
    nothing_message,
    plan_source,
)
from deepsentinel.corpus.read import Corpus
from deepsentinel.corpus.report import REPORT_PATH, ConvertReport, count_offsets
from deepsentinel.corpus.resample import check_method
from deepsentinel.corpus.sources import open_source, source_path
from deepsentinel.corpus.sources.base import Skipped, Source, SourceOptions, check_level
from deepsentinel.corpus.sources.patches import PatchReader, with_cloud_share
from deepsentinel.corpus.splits import DEFAULT_BLOCK_M, DEFAULT_SPLITS, check_splits
from deepsentinel.corpus.write import CorpusWriter
from deepsentinel.errors import CorpusExistsError, SourceError
from deepsentinel.store.local import write_atomic

OPTIONS_PATH: Final = "convert.json"


def convert(
    source: str | Path,
    dest: str | Path,
    *,
    kind: str | None = None,
    patch_size: int | None = None,
    boa_offset: str | int = "auto",
    resampling: str = "bilinear",
    s2_level: str = "L2A",
    block_m: float = DEFAULT_BLOCK_M,
    splits: Mapping[str, float] | None = None,
    seed: int = 0,
    s1_range: tuple[float, float] | None = None,
    s2_range: tuple[float, float] | None = None,
    name: str | None = None,
    requester_pays: bool | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ConvertReport:
    """Convert real files into a corpus; continues where an interrupted run stopped.

    Args:
        source: folder (or archive) of one of the kinds in `deepsentinel.corpus.sources.SOURCES`;
            of the original DeepSentinel layout also a URL, or a name of the catalogue.
        dest: folder of the corpus.
        kind: which kind of source; detected by default.
        patch_size: pixels; by default the size of the source's scenes up to 264, else 256. Larger
            scenes are cut into full tiles.
        boa_offset: `"auto"` takes the baseline offset from product names or metadata; where they
            say nothing, a scene is taken with offset 0 if its pixels exclude an offset, else left
            out and named in the report. `"detect"` also takes -1000 where the pixels show it.
            0 or -1000 is given for all, whatever names say.
        resampling: `nearest`, `bilinear` or `cubic`, for bands that are not at 10 m.
        s2_level: `L2A` or `L1C`, where the source holds both.
        block_m: metres; patches of one block of this size share a split.
        splits: share of each split; by default train 0.7, val 0.15, test 0.15.
        seed: of the assignment of blocks to splits.
        s1_range: dB that 0 and 255 stand for, where S1 was scaled to 8 bit.
        s2_range: reflectance that 0 and 255 stand for, where S2 was scaled to 8 bit.
        name: of the corpus; by default that of the source's folder.
        requester_pays: who pays where the source's bucket asks that of its readers.
        storage_options: arguments of the storage client of the source.
        progress: called with patches done and patches planned.

    Returns:
        What was converted, what was left out and why; also written as `convert_report.json`.

    Raises:
        SourceError: the source is not readable, nothing of it can be converted, or the patch size
            does not fit.
        CorpusExistsError: `dest` holds a corpus made with other options.

    Example:
        >>> convert("nowhere", "corpus")
        Traceback (most recent call last):
        ...
        deepsentinel.errors.SourceError: there is no source at nowhere.
    """
    root = Path(dest)
    path = source_path(source, requester_pays=requester_pays, storage_options=storage_options)
    reading = SourceOptions(
        resampling=check_method(resampling),
        s2_level=check_level(s2_level),
        s1_range=s1_range,
        s2_range=s2_range,
    )
    offset = check_offset(boa_offset)
    opened = open_source(path, kind=kind, options=reading)
    shares = check_splits(splits or DEFAULT_SPLITS)
    options = {
        "kind": opened.KIND,
        "boa_offset": offset,
        "resampling": resampling,
        "s2_level": s2_level,
        "block_m": block_m,
        "splits": shares,
        "seed": seed,
        "s1_range": s1_range,
        "s2_range": s2_range,
        "name": name or _folder_name(path),
    }
    plan = plan_source(
        opened,
        patch_size=patch_size,
        boa_offset=offset,
        rule=SplitRule(shares=shares, block_m=block_m, seed=seed),
        existing=lambda size: _settle(root, options | {"patch_size": size}),
    )
    return _write(opened, plan, root, options | {"patch_size": plan.size}, progress)


def _folder_name(path: Path) -> str:
    return path.resolve().stem if path.is_file() else path.resolve().name


def _settle(root: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """Splits of the blocks that a run before this one planned, after a check of its options."""
    path = root / OPTIONS_PATH
    if not path.is_file():
        if (root / INFO_PATH).exists():
            raise CorpusExistsError(
                f"{root} holds a corpus that was not converted (it has no {OPTIONS_PATH}). Choose "
                "another folder."
            )
        return {}
    there = json.loads(path.read_text(encoding="utf-8"))
    ours = json.loads(json.dumps(options))
    differing = [k for k in ours if there["options"].get(k) != ours[k]]
    if differing:
        found = ", ".join(
            f"{k} was {there['options'].get(k)!r}, now {ours[k]!r}" for k in differing
        )
        raise CorpusExistsError(
            f"{root} was made with other options: {found}. Use the same options to continue it, or "
            "another folder."
        )
    blocks: dict[str, str] = there["blocks"]
    return blocks


def _write(
    source: Source,
    plan: Plan,
    root: Path,
    options: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
) -> ConvertReport:
    reader = PatchReader(source, resampling=options["resampling"])
    skipped = list(plan.skipped)
    fresh = not root.exists()
    write_atomic(root / OPTIONS_PATH, dump_json({"options": options, "blocks": plan.blocks}))
    with CorpusWriter(root, corpus_info(source, plan, name=options["name"])) as writer:
        before = writer.done
        stored = set(before)
        for number, patch in enumerate(plan.patches):
            if patch.record.id not in before:
                try:
                    pixels = reader.read(patch)
                    writer.add(with_cloud_share(patch.record, pixels), pixels)
                    stored.add(patch.record.id)
                except SourceError as error:
                    skipped.append(Skipped(name=patch.record.id, reason=str(error)))
            if progress is not None:
                progress(number + 1, len(plan.patches))
    if not stored:
        if fresh:
            shutil.rmtree(root)  # nothing but an empty frame, which would refuse other options
        raise SourceError(nothing_message(source, skipped))
    report = _report(source, plan, root, options, stored=stored, before=before, skipped=skipped)
    write_atomic(root / REPORT_PATH, dump_json(report.to_json()))
    return report


def _report(
    source: Source,
    plan: Plan,
    root: Path,
    options: Mapping[str, Any],
    *,
    stored: AbstractSet[str],
    before: AbstractSet[str],
    skipped: Sequence[Skipped],
) -> ConvertReport:
    records = [p.record for p in plan.patches if p.record.id in stored]
    return ConvertReport(
        path=root,
        kind=source.KIND,
        patch_size=plan.size,
        converted=len(records),
        already=sum(r.id in before for r in records),
        skipped=tuple(skipped),
        offsets=count_offsets(records),
        splits=Corpus(root).info.splits,
        notes=plan.notes,
        options=options,
    )
