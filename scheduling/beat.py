"""Keeps one PeriodicTask per item that can still run. The only module that knows beat's tables.

The task only ticks: `scheduling.runs` decides whether a slot is due. So a tick too many is
harmless, and what is stored here can be thrown away and rebuilt by `sync_beat`.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models.signals import post_delete, post_save
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, PeriodicTask

from queryexport.errors import ConfigurationError
from scheduling.models import SchedulingItem
from scheduling.occurrences import tick

PREFIX = "scheduling item "
TICK_TASK = "scheduling.run_item"


@dataclass(frozen=True)
class Repair:
    """What `repair` changed: the names of the items, or of the tasks that had none."""

    written: tuple[str, ...]
    removed: tuple[str, ...]


def keep_in_step() -> None:
    """Connects the signals by which saving or deleting an item changes its task."""
    post_save.connect(_item_saved, sender=SchedulingItem, dispatch_uid="beat_item_saved")
    post_delete.connect(_item_deleted, sender=SchedulingItem, dispatch_uid="beat_item_deleted")


def sync(item: SchedulingItem) -> bool:
    """Makes the item's task what it should be; True if anything had to change."""
    wanted = _wanted(item, timezone.now())
    task = PeriodicTask.objects.filter(name=task_name(item.pk)).first()
    if wanted is None:
        return _remove(task)
    if task and all(getattr(task, name) == value for name, value in wanted.items()):
        return False
    task = task or PeriodicTask(name=task_name(item.pk))
    for name, value in wanted.items():
        setattr(task, name, value)
    task.save()  # Tells a running beat, which a bulk update would not.
    return True


def repair() -> Repair:
    """Brings every task in step with its item, and removes tasks whose item is gone."""
    items = list(SchedulingItem.objects.select_related("query"))
    written = tuple(item.name for item in items if sync(item))
    names = {task_name(item.pk) for item in items}
    orphans = PeriodicTask.objects.filter(name__startswith=PREFIX).exclude(name__in=names)
    removed = tuple(orphan.name for orphan in orphans if _remove(orphan))
    return Repair(written, removed)


def task_name(item_pk: int) -> str:
    return f"{PREFIX}{item_pk}"


def _wanted(item: SchedulingItem, now: datetime) -> dict[str, Any] | None:
    """The fields that the item's task should have; None when it should not exist."""
    if not item.enabled:
        return None
    try:
        if next(iter(item.schedule.after(now)), None) is None:
            return None  # Its end date has passed.
    except ConfigurationError:
        return None  # Written past the form; it cannot be due.
    return {
        "task": TICK_TASK,
        "args": json.dumps([item.pk]),
        "queue": item.work_queue,
        "crontab": _crontab(item),
        "enabled": True,
        "description": item.name,
    }


def _crontab(item: SchedulingItem) -> CrontabSchedule:
    ticks = tick(item.schedule.expression)
    values = {"minute": ticks.minute, "hour": ticks.hour, "timezone": item.timezone}
    every_day = {"day_of_month": "*", "month_of_year": "*", "day_of_week": "*"}
    found = CrontabSchedule.objects.filter(**values, **every_day).first()
    return found or CrontabSchedule.objects.create(**values, **every_day)


def _item_saved(instance: SchedulingItem, raw: bool = False, **kwargs: Any) -> None:
    if not raw:  # loaddata brings its own rows, or `sync_beat` repairs.
        sync(SchedulingItem.objects.get(pk=instance.pk))  # As stored: the instance may hold text.


def _item_deleted(instance: SchedulingItem, **kwargs: Any) -> None:
    _remove(PeriodicTask.objects.filter(name=task_name(instance.pk)).first())


def _remove(task: PeriodicTask | None) -> bool:
    """Deletes one by one, because only that tells a running beat."""
    if task:
        task.delete()
    return task is not None
