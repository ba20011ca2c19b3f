"""What runs when, and what became of every run."""

from scheduling.models.history import SchedulingHistoryItem
from scheduling.models.item import (
    WEEKDAYS,
    CatchUp,
    KafkaGuarantee,
    Overlap,
    SchedulingItem,
    SharingMode,
)
from scheduling.models.undelivered import UndeliveredFile, UndeliveredMessage

__all__ = [
    "WEEKDAYS",
    "CatchUp",
    "KafkaGuarantee",
    "Overlap",
    "SchedulingHistoryItem",
    "SchedulingItem",
    "SharingMode",
    "UndeliveredFile",
    "UndeliveredMessage",
]
