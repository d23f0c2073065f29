"""Rate limits of an account: requests and tokens by the minute and by the second, and bursts.

Floor 4. Promise: limits hold for the whole account, whatever key asks; whoever is refused and waits as long as it is
told to is let in, and every limit has recovered after 60 simulated seconds. Source: Model Studio's rate limits page (a
minute's limit is also enforced by the second, as limit / 60; a rate that grows too quickly is refused by itself).
"""

from __future__ import annotations

import email.utils
import time
from collections import deque
from dataclasses import dataclass, field

from migrator.demo.simulator.behaviour import Behaviour
from migrator.demo.simulator.refusals import Refused

_MINUTE = 60.0
#: Simulated seconds over which the usual rate is taken, for bursts.
_USUAL_SECONDS = 10.0


@dataclass(slots=True)
class Clock:
    """Simulated seconds: `speed` of them pass in a real one, and a change of speed makes no jump."""

    speed: float = 1.0
    _reached: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        """Return simulated seconds since it was made."""
        return self._reached + (time.monotonic() - self._since) * self.speed

    def run(self, speed: float) -> None:
        """Go on at another speed."""
        self._reached, self._since, self.speed = self.now(), time.monotonic(), speed


@dataclass(slots=True)
class Bucket:
    """A minute's limit, and its share of each second."""

    per_minute: float | None = None
    per_second_slices: bool = True
    minute: float = 0.0
    second: float = 0.0
    at: float = 0.0

    def take(self, amount: float, now: float) -> float:
        """Take that much and return 0, or the seconds after which it would be there.

        A single amount larger than a share passes an empty bucket: else it could never pass.
        """
        if self.per_minute is None:
            return 0.0
        rate = self.per_minute / _MINUTE
        passed = max(0.0, now - self.at)
        self.minute = max(0.0, self.minute - passed * rate)
        self.second = max(0.0, self.second - passed * rate)
        self.at = now
        wait = _excess(self.minute, amount, self.per_minute) / rate
        if self.per_second_slices:
            wait = max(wait, _excess(self.second, amount, rate) / rate)
        if wait == 0:
            self.minute += amount
            self.second += amount
        return wait

    def set(self, per_minute: float | None, *, per_second_slices: bool, now: float) -> None:
        """Become an empty bucket of another size."""
        self.per_minute, self.per_second_slices = per_minute, per_second_slices
        self.minute = self.second = 0.0
        self.at = now

    def left(self) -> int:
        """Return what is left of the minute."""
        return int((self.per_minute or 0.0) - self.minute)


def _excess(level: float, amount: float, room: float) -> float:
    """Return how far a level must sink before the amount fits."""
    return min(level, max(0.0, level + amount - room))


@dataclass(slots=True)
class Burst:
    """Refuses a rate that grows too quickly."""

    _arrivals: deque[float] = field(default_factory=deque)

    def too_quick(self, floor: int, now: float) -> bool:
        """Say whether the last second holds more than `floor` requests and twice the usual rate."""
        while self._arrivals and self._arrivals[0] <= now - _USUAL_SECONDS - 1:
            self._arrivals.popleft()
        last = sum(1 for at in self._arrivals if at > now - 1)
        usual = (len(self._arrivals) - last) / _USUAL_SECONDS
        if last + 1 > max(floor, 2 * usual):
            return True
        self._arrivals.append(now)
        return False


@dataclass(slots=True)
class Limits:
    """The account's limits, as its behaviour has them."""

    clock: Clock = field(default_factory=Clock)
    requests: Bucket = field(default_factory=Bucket)
    tokens: Bucket = field(default_factory=Bucket)
    burst: Burst = field(default_factory=Burst)

    def follow(self, behaviour: Behaviour, *, anew: bool = False) -> None:
        """Take the limits of a behaviour; buckets are made anew where their limit changed, or all if it was set."""
        if behaviour.speed != self.clock.speed:
            self.clock.run(behaviour.speed)
        slices, now = behaviour.per_second_slices, self.clock.now()
        for bucket, per_minute in (
            (self.requests, behaviour.requests_per_minute),
            (self.tokens, behaviour.tokens_per_minute),
        ):
            if anew or (bucket.per_minute, bucket.per_second_slices) != (per_minute, slices):
                bucket.set(per_minute, per_second_slices=slices, now=now)

    def admit(self, behaviour: Behaviour, tokens: int) -> None:
        """Let a request in.

        Raises: Refused.
        """
        now = self.clock.now()
        if behaviour.burst_floor is not None and self.burst.too_quick(behaviour.burst_floor, now):
            raise Refused("burst", retry_seconds=1.0 / self.clock.speed)
        for name, bucket, amount in (("requests_limit", self.requests, 1), ("tokens_limit", self.tokens, tokens)):
            wait = bucket.take(amount, now)
            if wait > 0:
                raise Refused(name, retry_seconds=wait / self.clock.speed)

    def headers(self, behaviour: Behaviour) -> dict[str, str]:
        """Return x-ratelimit-* as OpenAI's servers send them, where they are asked for."""
        if not behaviour.ratelimit_headers:
            return {}
        made: dict[str, str] = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket.per_minute is not None:
                made[f"x-ratelimit-limit-{name}"] = str(int(bucket.per_minute))
                made[f"x-ratelimit-remaining-{name}"] = str(max(0, bucket.left()))
                reset = bucket.minute * _MINUTE / bucket.per_minute / self.clock.speed
                made[f"x-ratelimit-reset-{name}"] = f"{reset:.3f}s"
        return made


def retry_after(form: str, seconds: float | None) -> dict[str, str]:
    """Return the header that tells a client when to come back, in one of the forms that providers use."""
    if seconds is None or form == "none":
        return {}
    if form == "milliseconds":
        return {"retry-after-ms": f"{seconds * 1000:.0f}"}
    if form == "date":
        # A date has whole seconds: rounded up, so that nobody comes too early.
        return {"retry-after": email.utils.formatdate(int(time.time() + seconds) + 1, usegmt=True)}
    return {"retry-after": f"{seconds:.3f}"}
