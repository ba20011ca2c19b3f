"""What runs when, and what became of every run."""

from scheduling.models.history import SchedulingHistoryItem
from scheduling.models.item import (
    WEEKDAYS,
    CatchUp,
    KafkaGuarantee,
    SchedulingItem,
    SharingMode,
)
from scheduling.models.undelivered import UndeliveredFile, UndeliveredMessage

__all__ = [
    "WEEKDAYS",
    "CatchUp",
    "KafkaGuarantee",
    "SchedulingHistoryItem",
    "SchedulingItem",
    "SharingMode",
    "UndeliveredFile",
    "UndeliveredMessage",
]
