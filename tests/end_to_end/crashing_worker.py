"""Celery's own worker and beat with the product in them, killed by SIGKILL at given points.

    python -m tests.end_to_end.crashing_worker worker --concurrency=4
    python -m tests.end_to_end.crashing_worker beat
    python -m tests.end_to_end.crashing_worker run-all

Functions of the product are wrapped from outside, before the worker forks. An item is killed at the
point that it is named after (`crash_points`), once: each kill leaves a mark in `CRASH_FOLDER`, and
each run that was claimed a line. `run-all` asks for one run of each item that has none.
"""

import os
import sys
from datetime import timedelta

import django

# In place of 30 s and 5 min, so that the matrix need not wait for what only takes long.
SWEEP_EVERY_SEC = 3.0
DISPATCH_AGAIN_AFTER = timedelta(seconds=30)


def main(*arguments: str) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "queryexport.settings")
    django.setup()
    from django.conf import settings

    from scheduling import sweep
    from tests.end_to_end import crash_hooks_of_runs, crash_hooks_of_sinks

    settings.CELERY_BEAT_SCHEDULE["sweep"]["schedule"] = SWEEP_EVERY_SEC
    sweep.DISPATCH_AGAIN_AFTER = DISPATCH_AGAIN_AFTER
    crash_hooks_of_runs.arm()
    crash_hooks_of_sinks.arm()
    if arguments == ("run-all",):
        run_all()
    else:
        from celery.__main__ import main as celery

        sys.argv = ["celery", "-A", "queryexport", *arguments]
        celery()


def run_all() -> None:
    from queryexport.celery import app
    from scheduling import runs
    from scheduling.models import SchedulingItem

    app.set_current()
    for item in SchedulingItem.objects.filter(enabled=False).order_by("pk"):
        if not item.history.exists():
            runs.run_now(item, trigger=runs.Trigger.COMMAND, user=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
