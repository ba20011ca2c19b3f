"""The errors that an operator reads: each says what happened, to what, why, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queryexport.rows import Receipt


class ExportError(Exception):
    """A failure that belongs in a run's history rather than in a traceback.

    `message` is one or two sentences for the operator and never holds a secret; the foreign error
    that caused it is its `__cause__`. `retryable` says whether the same run may pass later without
    anybody changing anything. `receipt` says what had arrived when a delivery broke off.
    """

    receipt: Receipt | None = None

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = retryable


class ConfigurationError(ExportError):
    """What is stored or set up cannot work: an unset variable, an unknown token, a bad path."""


class QueryError(ExportError):
    """The source database could not be reached, or refused, broke or outlived the query."""


class DeliveryError(ExportError):
    """A sink did not take the rows."""


class DeliveryUnknown(DeliveryError):
    """A sink had all of the rows, and nobody knows whether it took them; never tried again by
    itself, whatever else ended the run. `receipt` counts them as unknown.
    """


class RunSuperseded(ExportError):
    """Another process has ended or taken over this run, so this one must stop writing."""


class RunStopped(ExportError):
    """The run was told to end before its time; what it had delivered by then stays delivered."""


class RunCancelled(RunStopped):
    """A person cancelled the run."""


class LimitExceeded(RunStopped):
    """The run was past one of its item's limits."""


class WorkerStopping(RunStopped):
    """The worker was told to stop, and its time for finishing runs is over."""
