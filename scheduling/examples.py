"""What the file and the mail of an item would be called at its next slot, before there is a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import PurePosixPath

from django.conf import settings
from django.core.exceptions import ValidationError

from queryexport.errors import ExportError
from queryexport.filenames import fill
from queryexport.stores import redacted
from scheduling.models import Output, SharingMode
from scheduling.models.item import NEVER
from scheduling.rules import check_extension, check_packing, one_line

# What no run has given yet.
RUN_ID, ROW_COUNT = 12345, 1234
LONGEST_TEXT = 500


@dataclass
class Example:
    """What would be written, line by line, and what cannot be, in words."""

    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, label: str, make: Callable[[], str]) -> str:
        """The line that `make` gives, or its error."""
        try:
            text = make()
        except (ExportError, ValidationError) as error:
            if error.message not in self.errors:
                self.errors.append(str(error.message))
            return ""
        self.lines.append(f"{label}: {text}")
        return text


def next_slot(output: Output, now: datetime) -> datetime:
    """The one that examples are for: now, if the schedule has none."""
    slot = output.source.first_slot_after(now)
    return now if slot == NEVER else slot


def of_file(output: Output, slot: datetime) -> Example:
    """The name and the place of the file or attachment."""
    found = Example()
    name = found.add("File", partial(output.file_name, slot, run_id=RUN_ID))
    for rule in (check_extension, check_packing):
        _try(found, partial(rule, output))
    if output.sharing_mode == SharingMode.FILESYSTEM and name:
        found.add("In", partial(_place, output))
    return found


def of_mail(output: Output, slot: datetime) -> Example:
    """The subject and the text of the mail."""
    found, quiet = Example(), Example()
    name = quiet.add("", partial(output.file_name, slot, run_id=RUN_ID))
    tokens = replace(
        output.tokens(slot, run_id=RUN_ID),
        row_count=ROW_COUNT,
        run_url=f"{settings.SITE_URL or 'https://…'}/…/{RUN_ID}/",
        file_name=name,
    )
    found.add("Subject", lambda: fill(one_line(output.email_subject), tokens))
    if output.email_body:
        found.add("Text", lambda: _cut(fill(output.email_body, tokens)))
    return found


def slots(output: Output, now: datetime, *, number: int) -> Sequence[datetime]:
    """The next slots of its item, none if it has no schedule that works."""
    found: list[datetime] = []
    while len(found) < number:
        slot = output.source.first_slot_after(found[-1] if found else now)
        if slot == NEVER:
            break
        found.append(slot)
    return found


def _place(output: Output) -> str:
    if output.output_url:
        return f"{redacted(output.output_url).rstrip('/')}/"
    output.folder()  # Raises for one that leads outside.
    folder = PurePosixPath(output.output_dir.replace("\\", "/"))
    return f"{PurePosixPath('export folder') / folder}/"


def _try(found: Example, rule: Callable[[], object]) -> None:
    try:
        rule()
    except (ExportError, ValidationError) as error:
        found.errors.append(str(error.message))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
