"""Source files in, corpus out: `convert`.

The plan (which patches, their facts, offsets and splits) comes from metadata, and from pixels only
where offsets have to be judged. It depends on the source and the options alone, so that a
conversion that was stopped anywhere continues and ends with the same bytes. The options lie in the
corpus as `convert.json`; a run with others is refused.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from deepsentinel.corpus.format import CorpusInfo, dump_json
from deepsentinel.corpus.offset import judge_offset
from deepsentinel.corpus.patch import OffsetSource
from deepsentinel.corpus.read import open_corpus
from deepsentinel.corpus.report import REPORT_PATH, ConvertReport, count_offsets
from deepsentinel.corpus.resample import Method, check_method
from deepsentinel.corpus.sources import open_source
from deepsentinel.corpus.sources.base import S2Level, Scene, Skipped, Source, SourceOptions
from deepsentinel.corpus.sources.patches import PatchReader, PlannedPatch, plan_patches, scene_dn
from deepsentinel.corpus.splits import (
    DEFAULT_BLOCK_M,
    DEFAULT_SPLITS,
    assign_splits,
    block_of,
    check_splits,
)
from deepsentinel.corpus.write import CorpusWriter
from deepsentinel.errors import CorpusExistsError, SourceError
from deepsentinel.store.local import write_atomic

BoaOffset = Literal["auto", "detect"] | int
OPTIONS_PATH: Final = "convert.json"
MAX_WHOLE: Final = 264
"""Scenes up to this size become one patch; larger ones are cut into tiles of `TILE`."""
TILE: Final = 256


def convert(
    source: str | Path,
    dest: str | Path,
    *,
    kind: str | None = None,
    patch_size: int | None = None,
    boa_offset: BoaOffset = "auto",
    resampling: Method = "bilinear",
    s2_level: S2Level = "L2A",
    block_m: float = DEFAULT_BLOCK_M,
    splits: Mapping[str, float] | None = None,
    seed: int = 0,
    s1_range: tuple[float, float] | None = None,
    s2_range: tuple[float, float] | None = None,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ConvertReport:
    """Convert real files into a corpus; continues where an interrupted run stopped.

    Args:
        source: folder (or archive) of one of the kinds in `deepsentinel.corpus.sources.SOURCES`.
        dest: folder of the corpus.
        kind: which kind of source; detected by default.
        patch_size: pixels; by default the size of the source's scenes up to 264, else 256. Larger
            scenes are cut into full tiles.
        boa_offset: `"auto"` takes the baseline offset from product names or metadata; where they
            say nothing, a scene is taken with offset 0 if its pixels exclude an offset, else left
            out and named in the report. `"detect"` also takes -1000 where the pixels show it.
            0 or -1000 is given for all, whatever names say.
        resampling: `nearest`, `bilinear` or `cubic`, for bands that are not at 10 m.
        s2_level: which level to take where the source holds both.
        block_m: metres; patches of one block of this size share a split.
        splits: share of each split; by default train 0.7, val 0.15, test 0.15.
        seed: of the assignment of blocks to splits.
        s1_range: dB that 0 and 255 stand for, where S1 was scaled to 8 bit.
        s2_range: reflectance that 0 and 255 stand for, where S2 was scaled to 8 bit.
        name: of the corpus; by default that of the source's folder.
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
    root, path = Path(dest), Path(source)
    reading = SourceOptions(
        resampling=check_method(resampling),
        s2_level=s2_level,
        s1_range=s1_range,
        s2_range=s2_range,
    )
    opened = open_source(path, kind=kind, options=reading)
    plan = _plan(opened, patch_size, _check_offset(boa_offset))
    options = {
        "kind": opened.KIND,
        "patch_size": plan.size,
        "boa_offset": boa_offset,
        "resampling": resampling,
        "s2_level": s2_level,
        "block_m": block_m,
        "splits": check_splits(splits or DEFAULT_SPLITS),
        "seed": seed,
        "s1_range": s1_range,
        "s2_range": s2_range,
        "name": name or _folder_name(path),
    }
    plan = _with_splits(plan, options, _settle(root, options))
    return _write(opened, plan, root, options, progress)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    size: int
    patches: Sequence[PlannedPatch]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    blocks: Mapping[str, str]
    """Split of each block."""


def _check_offset(value: BoaOffset) -> BoaOffset:
    if value not in ("auto", "detect", 0, -1000):
        raise SourceError(f"boa_offset={value!r}: expected 'auto', 'detect', 0 or -1000.")
    return value


def _folder_name(path: Path) -> str:
    return path.resolve().stem if path.is_file() else path.resolve().name


# -------------------------------------------------------------------- which patches


def _plan(source: Source, patch_size: int | None, offset: BoaOffset) -> _Plan:
    scenes = source.scenes()
    size = _patch_size(scenes, patch_size, source)
    skipped = list(source.skipped)
    notes: list[str] = []
    patches: list[PlannedPatch] = []
    for scene in scenes:
        known = _with_offset(scene, source, offset)
        if isinstance(known, Skipped):
            skipped.append(known)
        elif min(scene.grid.shape) < size:
            skipped.append(_too_small(scene, size))
        else:
            patches += plan_patches(known, size)
    notes += [*_edges(scenes, size), *_overruled(scenes, offset)]
    _check_ids(patches)
    if not patches:
        raise SourceError(_nothing(source, skipped))
    return _Plan(size=size, patches=patches, skipped=tuple(skipped), notes=tuple(notes), blocks={})


def _patch_size(scenes: Sequence[Scene], wanted: int | None, source: Source) -> int:
    if not scenes:
        raise SourceError(_nothing(source, source.skipped))
    largest = max(min(s.grid.shape) for s in scenes)
    native = Counter(min(s.grid.shape) for s in scenes).most_common(1)[0][0]
    if wanted is None:
        return native if native <= MAX_WHOLE else TILE
    if not 1 <= wanted <= largest:
        raise SourceError(
            f"patch_size={wanted} does not fit: the scenes of this {source.KIND} source are "
            f"{largest} px. Choose a size from 1 to {largest}, or leave patch_size out."
        )
    return wanted


def _too_small(scene: Scene, size: int) -> Skipped:
    height, width = scene.grid.shape
    return Skipped(
        name=scene.record.id,
        reason=f"{height} x {width} px are less than a patch of {size} px",
        remedy=f"patch_size={min(height, width)} (--patch-size {min(height, width)})",
    )


def _edges(scenes: Sequence[Scene], size: int) -> list[str]:
    cut = Counter((s.grid.shape[0] % size, s.grid.shape[1] % size) for s in scenes)
    return [
        f"{count} scene(s) have a left-over edge of {rows} rows and {columns} columns that fill no "
        f"patch of {size} px"
        for (rows, columns), count in sorted(cut.items())
        if rows or columns
    ]


def _overruled(scenes: Sequence[Scene], offset: BoaOffset) -> list[str]:
    known = [s.record.boa_offset for s in scenes if s.record.boa_offset is not None]
    against = sum(value != offset for value in known)
    if isinstance(offset, str) or not against:
        return []
    return [
        f"boa_offset={offset} was given for all; the names or metadata of {against} scene(s) say "
        "otherwise"
    ]


def _check_ids(patches: Sequence[PlannedPatch]) -> None:
    twice = [i for i, n in Counter(p.record.id for p in patches).items() if n > 1]
    if twice:
        raise SourceError(
            f"the source holds several patches called {twice[0]!r} ({len(twice)} such names); "
            "convert its parts one by one."
        )


def _nothing(source: Source, skipped: Sequence[Skipped]) -> str:
    reasons = "; ".join(
        f"{s.name}: {s.reason}" + (f" (to include it: {s.remedy})" if s.remedy else "")
        for s in skipped[:5]
    )
    more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    return (
        f"nothing of this {source.KIND} source can be converted. {reasons or 'It is empty.'}{more}"
    )


# -------------------------------------------------------------------- offsets


def _with_offset(scene: Scene, source: Source, mode: BoaOffset) -> Scene | Skipped:
    """The scene with its offset known, or why it is left out."""
    record = scene.record
    if record.level_s2 is None and record.boa_offset is None:
        return scene  # no S2
    if isinstance(mode, int):
        return _offset(scene, mode, "given")
    if record.boa_offset is not None:
        return scene
    return _judged(scene, source, trust=mode == "detect")


def _judged(scene: Scene, source: Source, *, trust: bool) -> Scene | Skipped:
    """The scene with the offset that its pixels tell; -1000 is taken only if they are trusted."""
    try:
        judged = judge_offset(scene_dn(source.load(scene)))
    except SourceError as error:
        return Skipped(name=scene.record.id, reason=str(error))
    if judged.offset == 0 or (judged.offset is not None and trust):
        return _offset(scene, judged.offset, "detected", judged.confidence)
    verdict = "do not decide it" if judged.offset is None else "suggest it"
    return Skipped(
        name=scene.record.id,
        reason="nothing says whether its digital numbers carry the +1000 offset, and its pixels "
        f"{verdict}: {judged.reason}",
        remedy=_offset_remedy(decided=judged.offset is not None),
    )


def _offset_remedy(*, decided: bool) -> str:
    given = "boa_offset=-1000 or boa_offset=0 (--boa-offset) if you know it for the whole source"
    detect = "boa_offset='detect' (--boa-offset detect) to trust its pixels"
    return f"{detect}, or {given}" if decided else given


def _offset(
    scene: Scene, offset: int, known: OffsetSource, confidence: float | None = None
) -> Scene:
    record = replace(
        scene.record,
        boa_offset=offset,
        boa_offset_source=known,
        boa_offset_confidence=confidence,
    )
    return replace(scene, record=record)


# -------------------------------------------------------------------- splits


def _with_splits(plan: _Plan, options: Mapping[str, Any], existing: Mapping[str, str]) -> _Plan:
    block_m = options["block_m"]
    blocks = [
        block_of(p.record.lon, p.record.lat, patch_id=p.record.id, block_m=block_m)
        for p in plan.patches
    ]
    assigned = assign_splits(blocks, options["splits"], seed=options["seed"], existing=existing)
    patches = [
        replace(p, record=replace(p.record, split=assigned[block]))
        for p, block in zip(plan.patches, blocks, strict=True)
    ]
    notes = [*plan.notes, *_split_notes(options, assigned, blocks)]
    return replace(plan, patches=patches, notes=tuple(notes), blocks=assigned)


def _split_notes(
    options: Mapping[str, Any], assigned: Mapping[str, str], blocks: Sequence[str]
) -> list[str]:
    notes: list[str] = []
    here = {assigned[block] for block in blocks}
    empty = [s for s, share in options["splits"].items() if share > 0 and s not in here]
    if empty:
        notes.append(
            f"split {' and '.join(empty)} is empty: all patches lie in {len(set(blocks))} block(s) "
            f"of {options['block_m']:g} m. A smaller block_m (--block-m) makes more blocks."
        )
    placeless = sum(block.startswith("patch ") for block in blocks)
    if placeless:
        notes.append(
            f"{placeless} patches have no position: they are split at random, one by one, and "
            "neighbours may face each other"
        )
    return notes


# -------------------------------------------------------------------- writing


def _settle(root: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """Splits of the blocks that a run before this one planned, after a check of its options."""
    path = root / OPTIONS_PATH
    if not path.is_file():
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
    plan: _Plan,
    root: Path,
    options: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
) -> ConvertReport:
    reader = PatchReader(source, resampling=options["resampling"])
    skipped = list(plan.skipped)
    fresh = not root.exists()
    with CorpusWriter(root, _info(source, plan, options)) as writer:
        write_atomic(root / OPTIONS_PATH, dump_json({"options": options, "blocks": plan.blocks}))
        before = writer.done
        for number, patch in enumerate(plan.patches):
            if patch.record.id not in before:
                try:
                    writer.add(patch.record, reader.read(patch))
                except SourceError as error:
                    skipped.append(Skipped(name=patch.record.id, reason=str(error)))
            if progress is not None:
                progress(number + 1, len(plan.patches))
        stored = writer.done
    if not stored:
        if fresh:
            shutil.rmtree(root)  # nothing but an empty frame, which would refuse other options
        raise SourceError(_nothing(source, skipped))
    report = _report(source, plan, root, options, stored=stored, before=before, skipped=skipped)
    write_atomic(root / REPORT_PATH, dump_json(report.to_json()))
    return report


def _info(source: Source, plan: _Plan, options: Mapping[str, Any]) -> CorpusInfo:
    facts = source.facts
    return CorpusInfo(
        name=options["name"],
        licence=facts.licence,
        citation=facts.citation,
        sensors=tuple(facts.bands),
        bands=dict(facts.bands),
        labels=facts.labels,
        patch_size=plan.size,
        resolution_m=10,
        description=f"Converted from a {source.KIND} source: {facts.title}.",
        extras=facts.extras,
    )


def _report(
    source: Source,
    plan: _Plan,
    root: Path,
    options: Mapping[str, Any],
    *,
    stored: frozenset[str],
    before: frozenset[str],
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
        splits=open_corpus(root).info.splits,
        notes=plan.notes,
        options=options,
    )
