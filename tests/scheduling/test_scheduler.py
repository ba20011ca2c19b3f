"""Beat's scheduler on a clock that is set back: nothing waits for the time to come again."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django_celery_beat.models import PeriodicTask

from queryexport.celery import app
from scheduling.scheduler import Scheduler

pytestmark = pytest.mark.django_db(transaction=True)  # Beat closes connections that are in one.

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Noting(Scheduler):
    """Notes what it would send, instead of sending it."""

    producer = None

    def __init__(self) -> None:
        self.sent: list[tuple[str, datetime]] = []
        super().__init__(app=app)
        self._finalize.cancel()  # At the end of the process there is no database any more.

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        self.sent.append((entry.name, datetime.now(UTC)))

    def run(self, travel: time_machine.Traveller, duration: timedelta) -> None:
        """Ticks as beat does, for so long."""
        until = datetime.now(UTC) + duration
        while datetime.now(UTC) < until:
            travel.shift(max(self.tick(), 0.1))

    def sweeps(self) -> list[datetime]:
        return [moment for name, moment in self.sent if name == "sweep"]


def test_the_sweep_goes_on_after_the_clock_was_set_back() -> None:
    with time_machine.travel(NOON, tick=False) as travel:
        scheduler = Noting()
        scheduler.run(travel, timedelta(seconds=130))
        before = len(scheduler.sweeps())
        travel.shift(-HOUR)
        scheduler.run(travel, timedelta(seconds=130))
        again = scheduler.sweeps()[before:]
    assert before == 4
    assert len(again) == 4
    assert again[0] < NOON - HOUR + timedelta(seconds=130 + 35)


def test_a_beat_that_is_started_after_the_clock_was_set_back_sweeps_too() -> None:
    with time_machine.travel(NOON, tick=False) as travel:
        before = Noting()
        before.run(travel, timedelta(seconds=70))
        before.sync()
        travel.shift(-HOUR)
        after = Noting()
        after.run(travel, timedelta(seconds=70))
    assert len(after.sweeps()) == 2


def test_what_is_changed_after_the_clock_was_set_back_is_seen() -> None:
    with time_machine.travel(NOON, tick=False) as travel:
        scheduler = Noting()
        PeriodicTask.objects.get(name="sweep").save()
        scheduler.run(travel, timedelta(minutes=1))
        travel.shift(-HOUR)
        scheduler.run(travel, timedelta(seconds=30))
        task = PeriodicTask.objects.get(name="sweep")
        PeriodicTask.objects.create(name="new", task="new", interval=task.interval)
        scheduler.run(travel, timedelta(minutes=1))
    assert "new" in dict(scheduler.sent)


def test_a_clock_that_a_time_service_corrects_a_little_sends_nothing_twice() -> None:
    with time_machine.travel(NOON, tick=False) as travel:
        scheduler = Noting()
        for _ in range(12):
            scheduler.run(travel, timedelta(seconds=10))
            travel.shift(-0.5)
    assert len(scheduler.sweeps()) in (3, 4)
