"""What a file looks like: each format writes a result into the binary file it is handed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Protocol

from queryexport.rows import Result


@dataclass(frozen=True)
class Written:
    """How many rows a file holds, and how many of its values could not be kept as they were,
    counted by what became of them.
    """

    rows: int
    conversions: Mapping[str, int] = field(default_factory=dict)


class Format(Protocol):
    """A file format. It knows nothing of paths, names or sinks."""

    mime_type: str

    def write(self, result: Result, file: IO[bytes]) -> Written:
        """Writes every row; raises `DeliveryError` for one that cannot be.

        `file` may be unable to seek.
        """
