"""The admin pages of items, their history and undelivered rows; beat's own tables have none."""

from django.contrib import admin
from django_celery_beat import models as beat_models

from scheduling.admin.history import SchedulingHistoryItemAdmin
from scheduling.admin.items import SchedulingItemAdmin
from scheduling.admin.queries import QueryOfItemsAdmin
from scheduling.admin.templates import WorkbookTemplateOfItemsAdmin
from scheduling.admin.undelivered import UndeliveredMessageAdmin

__all__ = [
    "QueryOfItemsAdmin",
    "SchedulingHistoryItemAdmin",
    "SchedulingItemAdmin",
    "UndeliveredMessageAdmin",
    "WorkbookTemplateOfItemsAdmin",
]

# With its permission anybody could run any registered task with any arguments.
for model in (
    beat_models.PeriodicTask,
    beat_models.CrontabSchedule,
    beat_models.IntervalSchedule,
    beat_models.SolarSchedule,
    beat_models.ClockedSchedule,
):
    admin.site.unregister(model)
