"""Opens files in LibreOffice, without its windows, and gives the cells as it shows them."""

import csv
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.services.processes import ServiceError, find_program, service_folder

CONVERT_SEC = 300
# By position: comma, quote, UTF-8, -, -, -, text in quotes, numbers bare, cells as they are shown,
# no formulas but their results, -, and every sheet as a file of its own.
ALL_SHEETS_AS_SHOWN = "44,34,76,1,,0,true,true,true,false,false,-1"
# Otherwise it reads 007 as the number 7, as if somebody had typed it.
AS_TEXT = 2
CSV_FILTER = "Text - txt - csv (StarCalc)"

Sheet = list[list[str]]


@dataclass(frozen=True)
class LibreOffice:
    """The program, with a profile of its own that nobody else uses."""

    program: Path
    profile: Path = field(repr=False)
    version: str = ""

    def sheets(self, path: Path) -> Mapping[str, Sheet]:
        """The rows of each sheet of a workbook, by its name; an empty cell is empty text."""
        return self._sheets(path)

    def text_file(self, path: Path, columns: int) -> Sheet:
        """The rows of a CSV file in UTF-8 with commas, each column imported as text."""
        formats = "/".join(f"{number}/{AS_TEXT}" for number in range(1, columns + 1))
        [sheet] = self._sheets(path, f"--infilter={CSV_FILTER}:44,34,76,1,{formats}").values()
        return sheet

    def _sheets(self, path: Path, *options: str) -> dict[str, Sheet]:
        with TemporaryDirectory(dir=self.profile.parent) as folder:
            said = self._run(
                *options,
                "--convert-to",
                f"csv:{CSV_FILTER}:{ALL_SHEETS_AS_SHOWN}",
                "--outdir",
                folder,
                str(path),
            )
            # It ends with 0 even when it could not read the file.
            found = {
                file.stem.removeprefix(f"{path.stem}-"): _rows(file)
                for file in sorted(Path(folder).iterdir())
            }
        if not found:
            raise ServiceError(f"LibreOffice cannot open {path}. It said:\n{said}")
        return found

    def _run(self, *arguments: str) -> str:
        command = (
            str(self.program),
            f"-env:UserInstallation={self.profile.as_uri()}",
            "--headless",
            *arguments,
        )
        with subprocess.Popen(
            command,
            # Whose words and forms of dates it shows.
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=CONVERT_SEC)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # The program is a script's child.
                raise
        return said.strip()


def unavailable_reason() -> str | None:
    """Return why no LibreOffice can be had here, or None."""
    if _program() is None:
        return "soffice not found (Debian package libreoffice-calc)"
    return None


@contextmanager
def running() -> Iterator[LibreOffice]:
    """Give a LibreOffice with a new profile, which is removed in the end."""
    program = _program()
    assert program
    with service_folder("libreoffice") as folder:
        office = LibreOffice(program, folder / "profile")
        # `LibreOffice 7.4.7.2 40(Build:2)`
        words = office._run("--version").split()
        yield LibreOffice(program, office.profile, words[words.index("LibreOffice") + 1])


def _program() -> Path | None:
    return find_program("soffice", Path("/usr/lib/libreoffice/program"))


def _rows(file: Path) -> Sheet:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.reader(text))
