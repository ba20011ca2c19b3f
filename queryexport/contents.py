"""What a file holds: rows in a format, and how the whole of it is packed."""

import gzip
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

from queryexport.formats import Format, Written
from queryexport.rows import Result


class Packing(Protocol):
    """How a file is packed. Its `suffix` is added to the file's name."""

    suffix: str
    mime_type: str

    def packed(self, file: IO[bytes], inner_name: str) -> AbstractContextManager[IO[bytes]]:
        """What to write into, so that it ends packed in `file` when the block ends well."""


class Gzip:
    """One gzip member that keeps the inner name; the same rows give the same bytes."""

    suffix = ".gz"
    mime_type = "application/gzip"

    @contextmanager
    def packed(self, file: IO[bytes], inner_name: str) -> Iterator[IO[bytes]]:
        with gzip.GzipFile(inner_name, "wb", fileobj=file, mtime=0) as packed:
            yield cast(IO[bytes], ForwardOnly(packed))


@dataclass(frozen=True)
class Contents:
    """A format and, if wanted, a packing."""

    format: Format
    packing: Packing | None = None

    @property
    def mime_type(self) -> str:
        return self.packing.mime_type if self.packing else self.format.mime_type

    def write(self, result: Result, file: IO[bytes], *, name: str) -> Written:
        """Writes the file that will be called `name`; raises what the format raises."""
        if self.packing is None:
            return self.format.write(result, file)
        with self.packing.packed(file, name.removesuffix(self.packing.suffix)) as inner:
            return self.format.write(result, inner)


class ForwardOnly(io.RawIOBase):
    """A compressed file without its seek, which claims to work, and so misleads `zipfile`."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)
