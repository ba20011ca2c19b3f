"""Where rows can go: the `Sink` interface, and one module for each kind of destination."""

from typing import Protocol

from queryexport.rows import Progress, Receipt, Result


class Sink(Protocol):
    """Takes a whole result. One method, so there is no half-open state to be left in."""

    def deliver(self, result: Result, progress: Progress) -> Receipt:
        """Delivers every row and says what arrived; raises `ExportError` when nothing did."""
