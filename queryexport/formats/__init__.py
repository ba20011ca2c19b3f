"""What a file looks like: each format writes a result into the binary file it is handed."""

from typing import IO, Protocol

from queryexport.rows import Result


class Format(Protocol):
    """A file format. It knows nothing of paths, names or sinks."""

    mime_type: str

    def write(self, result: Result, file: IO[bytes]) -> int:
        """Writes every row and returns how many; raises `DeliveryError` for one that cannot be."""
