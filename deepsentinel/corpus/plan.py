"""Which patches a source gives: sizes, tiles, baseline offsets and splits, before any is written.

A plan comes from metadata, and from pixels only where an offset has to be judged. It depends on
the source and the options alone.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from deepsentinel.corpus.format import CorpusInfo
from deepsentinel.corpus.offset import judge_offset
from deepsentinel.corpus.patch import OffsetSource
from deepsentinel.corpus.sources.base import Scene, Skipped, Source
from deepsentinel.corpus.sources.patches import PlannedPatch, load_scene, plan_patches, scene_dn
from deepsentinel.corpus.splits import assign_splits, block_of
from deepsentinel.errors import SourceError
from deepsentinel.units import BOA_OFFSET

BoaOffset = Literal["auto", "detect"] | int
MAX_WHOLE: Final = 264
"""Scenes up to this size become one patch; larger ones are cut into tiles of `TILE`."""
TILE: Final = 256


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which patches a source gives, with all their facts."""

    size: int
    """Rows and columns of every patch."""
    patches: Sequence[PlannedPatch]
    skipped: tuple[Skipped, ...]
    """What is left out."""
    notes: tuple[str, ...]
    """What else one should know."""
    blocks: Mapping[str, str]
    """Split of each geographic block."""


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """How patches are split: whole blocks, at random, in given shares."""

    shares: Mapping[str, float]
    block_m: float
    seed: int


def check_offset(value: str | int) -> BoaOffset:
    """The value, if it is one that `convert` takes.

    Raises:
        SourceError: it is not.

    Example:
        >>> check_offset("auto")
        'auto'
    """
    if value == "auto":
        return "auto"
    if value == "detect":
        return "detect"
    if isinstance(value, int) and value in {0, BOA_OFFSET}:
        return value
    raise SourceError(f"boa_offset={value!r}: expected 'auto', 'detect', 0 or {BOA_OFFSET}.")


def plan_source(
    source: Source,
    *,
    patch_size: int | None,
    boa_offset: BoaOffset,
    rule: SplitRule,
    existing: Callable[[int], Mapping[str, str]] = lambda _: {},
) -> Plan:
    """Every patch of a source with its facts, offset and split.

    Args:
        source: what to take them from.
        patch_size: pixels; `None` for the default.
        boa_offset: see `convert`.
        rule: how to split.
        existing: given the patch size, the blocks that have a split already.

    Raises:
        SourceError: nothing of it can be converted, or the patch size does not fit.
    """
    plan = _plan(source, patch_size, boa_offset)
    return _with_splits(plan, rule, existing(plan.size))


def corpus_info(source: Source, plan: Plan, *, name: str) -> CorpusInfo:
    """What a corpus of these patches is."""
    facts = source.facts
    return CorpusInfo(
        name=name,
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


# -------------------------------------------------------------------- which patches


def _plan(source: Source, patch_size: int | None, offset: BoaOffset) -> Plan:
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
        raise SourceError(nothing_message(source, skipped))
    return Plan(size=size, patches=patches, skipped=tuple(skipped), notes=tuple(notes), blocks={})


def _patch_size(scenes: Sequence[Scene], wanted: int | None, source: Source) -> int:
    if not scenes:
        raise SourceError(nothing_message(source, source.skipped))
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


def nothing_message(source: Source, skipped: Sequence[Skipped]) -> str:
    """Why a source gives no patch, for an error."""
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
        judged = judge_offset(scene_dn(load_scene(source, scene)))
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


def _with_splits(plan: Plan, rule: SplitRule, existing: Mapping[str, str]) -> Plan:
    blocks = [
        block_of(p.record.lon, p.record.lat, patch_id=p.record.id, block_m=rule.block_m)
        for p in plan.patches
    ]
    assigned = assign_splits(blocks, rule.shares, seed=rule.seed, existing=existing)
    patches = [
        replace(p, record=replace(p.record, split=assigned[block]))
        for p, block in zip(plan.patches, blocks, strict=True)
    ]
    notes = [*plan.notes, *_split_notes(rule, assigned, blocks)]
    return replace(plan, patches=patches, notes=tuple(notes), blocks=assigned)


def _split_notes(rule: SplitRule, assigned: Mapping[str, str], blocks: Sequence[str]) -> list[str]:
    notes: list[str] = []
    here = {assigned[block] for block in blocks}
    empty = [s for s, share in rule.shares.items() if share > 0 and s not in here]
    if empty:
        notes.append(
            f"split {' and '.join(empty)} is empty: all patches lie in {len(set(blocks))} block(s) "
            f"of {rule.block_m:g} m. A smaller block_m (--block-m) makes more blocks."
        )
    placeless = sum(block.startswith("patch ") for block in blocks)
    if placeless:
        notes.append(
            f"{placeless} patches have no position: they are split at random, one by one, and "
            "neighbours may face each other"
        )
    return notes
