"""Beat's schedule, sparing the broker: a tick is sent only where others do not wait already.

Floor 4. Promise: with no worker to take them, ticks do not pile up. A broker keeps every message, expired ones too,
until somebody takes it: a weekend without workers would be 17,000 of them.
"""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

from celery.beat import Scheduler
from celery.utils.log import get_logger

from migrator import settings
from migrator.state.batches import QUEUE_CONTROL

logger = get_logger(__name__)

#: Ticks that may wait: one would do; a few, so that a worker which is busy for a minute gets its next one at once.
MOST_WAITING = 6


class Sparing(Scheduler):
    """Celery's own scheduler, which looks into the queue before it sends.

    Not the one that is persistent: what it keeps is a pickle, and whoever could write that file would run code here.
    """

    _spares = False

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        """Look at the schedule, and leave a sign of it for `migrator alive --beat`."""
        # Before: where the broker is away Celery waits in there for it, and starting it again would not help.
        with contextlib.suppress(OSError):
            settings.beat_sign(settings.load()).touch()
        return super().tick(*args, **kwargs)

    def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> Any:
        """Send an entry's task, unless enough of them wait."""
        spared, self._spares = self._spares, self._waiting() >= MOST_WAITING
        if self._spares:
            if not spared:
                logger.warning("no tick is sent: %s of them wait, and no worker takes any", MOST_WAITING)
            return None
        # As a batch's, an id that people can read, and that leaves a line of Flower's list room for its result.
        entry.options["task_id"] = f"tick-{uuid.uuid4().hex[:8]}"
        return super().apply_async(entry, *args, **kwargs)

    def _waiting(self) -> int:
        """Return how many messages the queue holds; 0 where that can't be told, and sending will tell why."""
        connection = self.app.connection_for_write()
        try:
            # Declared as everybody declares it. Only asking for it (passive) overlooks the key prefix: kombu 5.7 then
            # says that there is no such queue.
            channel = connection.default_channel
            declared = channel.queue_declare(queue=QUEUE_CONTROL, durable=True, exclusive=False, auto_delete=False)
            return int(declared.message_count)
        except (*connection.connection_errors, *connection.channel_errors):
            return 0
        finally:
            connection.release()
