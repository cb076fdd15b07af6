"""What a transfer will move, and what it did: the values that `download` and `upload` give."""

from dataclasses import asdict, dataclass
from typing import Any, Final

from deepsentinel.corpus.copying import bytes_words
from deepsentinel.corpus.verify import Damage

RECORD_PATH: Final = "download.json"
"""Where a copy came from, beside the corpus."""
LARGE_BYTES: Final = 2**30
"""From here on a transfer is one to ask about."""
_LISTED: Final = 20


@dataclass(frozen=True, kw_only=True)
class TransferPlan:
    """What a transfer will move; `str(plan)` is meant to be read."""

    source: str
    dest: str
    name: str
    patches: int
    total: int
    """Patches of the source."""
    size: int
    """Bytes of the patches, without the index, which is read to know this."""
    there: int
    """Bytes of them that an earlier run left here."""
    requests: int
    """Requests for what is left."""
    billed: bool
    """Whether somebody named by the caller pays for it."""

    @property
    def left(self) -> int:
        """Bytes still to move."""
        return self.size - self.there

    @property
    def large(self) -> bool:
        """Whether it should be asked about."""
        return self.left >= LARGE_BYTES

    def __str__(self) -> str:
        left = f"{bytes_words(self.left)} in about {self.requests} requests"
        there = f", {bytes_words(self.there)} are here already" if self.there else ""
        billed = "; requester pays: your project is billed for it" if self.billed else ""
        of = f"{self.patches} of {self.total} patches of {self.name}"
        return f"{of}: {left} from {self.source} to {self.dest}{there}{billed}"


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """What a transfer did; `str(report)` is meant to be read."""

    source: str
    dest: str
    patches: int
    """Patches in the copy."""
    skipped: int
    """Patches of the source that were not asked for."""
    fetched: int
    """Bytes of patches that were moved by this run."""
    already: int
    """Bytes of patches that were there before."""
    requests: int
    retried: int
    """Patches that came damaged, and right when asked for again."""
    wrong: tuple[Damage, ...]
    """Patches that are damaged where they lie, and are not in the copy."""
    seconds: float
    repeated: int = 0
    """Requests that failed for a while and were made again."""
    compared: str = "every checksum compared"
    """What was compared, in words."""

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is there."""
        return not self.wrong

    def to_json(self) -> dict[str, Any]:
        """The report as a value that `json` can write."""
        return {**asdict(self), "wrong": [d._asdict() for d in self.wrong], "ok": self.ok}

    def __str__(self) -> str:
        rate = f", {bytes_words(self.fetched / self.seconds)}/s" if self.seconds > 0 else ""
        lines = [
            f"{self.patches} patches in {self.dest}, {self.compared}",
            f"  moved: {bytes_words(self.fetched)} in {self.requests} requests, "
            f"{self.seconds:.1f} s{rate}",
        ]
        if self.already:
            lines.append(f"  there before: {bytes_words(self.already)}")
        if self.skipped:
            lines.append(f"  not asked for: {self.skipped} patches")
        if self.repeated:
            lines.append(f"  failed for a while and made again: {self.repeated} requests")
        if self.retried:
            lines.append(f"  damaged on the way and fetched again: {self.retried} patches")
        if self.wrong:
            lines.append(f"  WRONG at the source, left out: {len(self.wrong)} patches")
        lines += [f"    {d.id}  {d.shard}  {d.reason}" for d in self.wrong[:_LISTED]]
        if len(self.wrong) > _LISTED:
            lines.append(f"    ... and {len(self.wrong) - _LISTED} more, see {RECORD_PATH}")
        return "\n".join(lines)
