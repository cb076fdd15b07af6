"""How often and how long a call over a network is tried again."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Retry:
    """One policy around every call; the retries of the clients themselves are switched off.

    Example:
        >>> [round(b, 1) for b, _ in zip(Retry(backoff_s=0.5, jitter=0).waits(), range(4))]
        [0.5, 1.0, 2.0, 4.0]
    """

    attempts: int = 6
    """Times that a call is tried in all."""
    deadline_s: float = 60.0
    """Seconds from the first try after which nothing is tried any more, for up to 16 MiB."""
    attempt_s: float = 20.0
    """Seconds that one try may take, for up to 16 MiB."""
    backoff_s: float = 0.2
    """Seconds before the second try; they double with every further one."""
    jitter: float = 0.5
    """Share of each pause that is drawn by chance, so that many readers do not return at once."""
    slowest: float = field(default=2**20, repr=False)
    """Bytes a second below which a large transfer counts as stalled."""

    def waits(self) -> Iterator[float]:
        """Pauses between the tries."""
        pause = self.backoff_s
        while True:
            yield pause * (1 - self.jitter * random.random())  # noqa: S311 - a pause, no secret
            pause *= 2

    def clock(self, size: int = 0) -> "Clock":
        """A clock that starts now, for a call that moves `size` bytes."""
        extra = max(0, size - 16 * 2**20) / self.slowest
        return Clock(self, self.deadline_s + extra, self.attempt_s + extra)


class Clock:
    """The course of one call."""

    def __init__(self, policy: Retry, deadline_s: float, attempt_s: float) -> None:
        self._policy = policy
        self._waits = policy.waits()
        self._begun = time.monotonic()
        self._deadline_s = deadline_s
        self._attempt_s = attempt_s
        self.tries = 1

    @property
    def elapsed(self) -> float:
        """Seconds since the first try."""
        return time.monotonic() - self._begun

    @property
    def patience(self) -> float:
        """Seconds that the present try may take."""
        return max(0.05, min(self._attempt_s, self._deadline_s - self.elapsed))

    def again(self) -> bool:
        """Pause and say `True`, or say `False` where nothing is left to be tried."""
        pause = next(self._waits)
        if self.tries >= self._policy.attempts or self.elapsed + pause >= self._deadline_s:
            return False
        time.sleep(pause)
        self.tries += 1
        return True
