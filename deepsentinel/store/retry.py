"""How often and how long a call over a network is tried again."""

import random
import time
from collections.abc import Callable, Iterator
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
    """Seconds from the first try after which nothing is tried any more; longer by what is moved."""
    attempt_s: float = 20.0
    """Seconds that one try may take; longer by what is moved."""
    backoff_s: float = 0.2
    """Seconds before the second try; they double with every further one."""
    jitter: float = 0.5
    """Share of each pause that is drawn by chance, so that many readers do not return at once."""
    slowest: float = field(default=2**19, repr=False)
    """Bytes a second below which the line of a store counts as stalled."""

    def waits(self) -> Iterator[float]:
        """Pauses between the tries."""
        pause = self.backoff_s
        while True:
            yield pause * (1 - self.jitter * random.random())  # noqa: S311 - a pause, no secret
            pause *= 2

    def clock(self, moving: Callable[[], int] = lambda: 0) -> "Clock":
        """A clock that starts now, for a call beside which `moving()` bytes share the line."""
        return Clock(self, moving)


class Clock:
    """The course of one call."""

    def __init__(self, policy: Retry, moving: Callable[[], int]) -> None:
        self._policy = policy
        self._waits = policy.waits()
        self._moving = moving
        self._most = 0
        self._begun = time.monotonic()
        self.tries = 1

    @property
    def elapsed(self) -> float:
        """Seconds since the first try."""
        return time.monotonic() - self._begun

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._longer(self._policy.deadline_s) - self.elapsed

    @property
    def patience(self) -> float:
        """Seconds that a try which begins now may take."""
        return max(0.05, min(self._longer(self._policy.attempt_s), self.left))

    def again(self) -> bool:
        """Pause and say `True`, or say `False` where nothing is left to be tried."""
        pause = next(self._waits)
        if self.tries >= self._policy.attempts or pause >= self.left:
            return False
        time.sleep(pause)
        self.tries += 1
        return True

    def _longer(self, seconds: float) -> float:
        """More time where much is on its way, even if others have come to their end since."""
        self._most = max(self._most, self._moving())
        return seconds * (1 + self._most / self._policy.slowest / self._policy.attempt_s)
