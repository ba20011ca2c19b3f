"""Beat's scheduler, which goes on at once when the machine's clock is set back.

django-celery-beat's own sends nothing until the clock has passed the last time of everything again:
no sweep for an hour, when it was set back by an hour. A tick too many does no harm.
"""

import logging
import time
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django_celery_beat.schedulers import DatabaseScheduler, ModelEntry

log = logging.getLogger(__name__)

# What a time service corrects without a step is less.
STEP_SEC = 5.0


class Entry(ModelEntry):  # type: ignore[misc]  # It has no types.
    """What beat sends; last in the past, whatever the clock said when it was sent."""

    last_run_at: datetime

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        moment = timezone.now()
        if self.last_run_at > moment + timedelta(seconds=STEP_SEC):
            self.last_run_at = moment


class Scheduler(DatabaseScheduler):  # type: ignore[misc]  # It has no types.
    """django-celery-beat's, which reads everything again after such a step."""

    Entry = Entry
    _ticked_at = 0.0

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """One step of beat's loop; returns how many seconds the next may wait."""
        now = time.time()
        if now < self._ticked_at - STEP_SEC:
            log.warning("The clock was set back by %.0f s", self._ticked_at - now)
            self._initial_read, self._heap = True, None
        self._ticked_at = now
        return float(super().tick(*args, **kwargs))

    def schedule_changed(self) -> bool:
        """Whether an item was saved; its time may be before that of the last change."""
        before = self._last_timestamp
        return bool(super().schedule_changed()) or (
            before is not None and self._last_timestamp != before
        )
