"""What a conversion did: `ConvertReport`, for people to read and for scripts."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepsentinel.corpus.patch import PatchRecord
from deepsentinel.corpus.sources.base import Skipped

REPORT_PATH = "convert_report.json"
_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class ConvertReport:
    """What became of a source; `str(report)` is meant to be read."""

    path: Path
    """The corpus."""
    kind: str
    patch_size: int
    converted: int
    """Patches of this source in the corpus."""
    already: int
    """How many of them were there before this run."""
    skipped: tuple[Skipped, ...]
    """What was left out, why, and the option that would include it."""
    offsets: Mapping[str, int]
    """Patches by how their baseline offset was known, such as `product-name -1000`."""
    splits: Mapping[str, int]
    """Patches in each split."""
    notes: tuple[str, ...] = ()
    """What else one should know: edges cut off, empty splits, guesses that options would settle."""
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as `convert_report.json` holds it: the same however often it was interrupted."""
        value = asdict(self)
        del value["path"], value["already"]
        value["skipped"] = list(value["skipped"])
        value["notes"] = list(self.notes)
        return value

    def __str__(self) -> str:
        lines = [self._headline(), *self._counts()]
        lines += [f"  note: {note}" for note in self.notes]
        if self.skipped:
            lines.append(f"  left out: {len(self.skipped)}")
        for skipped in self.skipped[:_LISTED]:
            lines.append(f"    {skipped.name}: {skipped.reason}")
            if skipped.remedy:
                lines.append(f"      to include it: {skipped.remedy}")
        if len(self.skipped) > _LISTED:
            lines.append(f"    ... and {len(self.skipped) - _LISTED} more, see {REPORT_PATH}")
        return "\n".join(lines)

    def _headline(self) -> str:
        patches = f"{self.converted} {self.kind} patches of {self.patch_size} px in {self.path}"
        if self.already == self.converted:
            return f"{patches}: all were there already, nothing to do."
        return patches if not self.already else f"{patches}, {self.already} from an earlier run"

    def _counts(self) -> list[str]:
        named = {"splits": self.splits, "offsets": self.offsets}
        return [
            f"  {title}: {', '.join(f'{name} {count}' for name, count in counts.items())}"
            for title, counts in named.items()
            if counts
        ]


def count_offsets(records: Iterable[PatchRecord]) -> dict[str, int]:
    """Patches by how their offset was known, sorted; those without S2 are left out.

    Example:
        >>> count_offsets([PatchRecord(id="a", boa_offset=0, boa_offset_source="given")])
        {'given 0': 1}
    """
    known = (f"{r.boa_offset_source} {r.boa_offset}" for r in records if r.boa_offset is not None)
    return dict(sorted(Counter(known).items()))
