"""Fills `{query_name}_{date-1}.xlsx` and keeps the result inside the export folder."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path, PurePosixPath

from queryexport.errors import ConfigurationError

TOKEN = re.compile(r"\{([^{}]*)\}")
NAME_AND_DAYS = re.compile(r"(?P<name>[^+-]*)(?P<days>[+-]\d{1,5})?")
KNOWN = "{query_name}, {date}, {date-1} (any number of days), {timestamp}"
REFUSED_BY_WINDOWS = frozenset('<>:"/\\|?*')
# Control and format characters (which turn text around), lone surrogates, line separators.
INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
LONGEST_NAME_BYTES = 200


@dataclass(frozen=True)
class Tokens:
    """The values that templates may use, all taken from the slot and not from the clock.

    `day` is the slot's local day, to which `{date}` adds `offset_days`; `date_format` is
    strftime's.
    """

    query_name: str
    day: date
    slot: datetime
    date_format: str = "%Y-%m-%d"
    offset_days: int = 0

    @property
    def start_date(self) -> date:
        """The day that `{date}` stands for."""
        return self.day + timedelta(days=self.offset_days)

    def value(self, name: str, days: int) -> str | None:
        match name:
            case "query_name":
                return self.query_name.removesuffix(".sql")
            case "date":
                return (self.start_date + timedelta(days=days)).strftime(self.date_format)
            case "timestamp":
                return self.slot.strftime("%Y%m%d%H%M%S")
        return None


def fill(template: str, tokens: Tokens) -> str:
    """The template with its tokens replaced; raises `ConfigurationError` for an unknown one."""

    def value(match: re.Match[str]) -> str:
        text = _value(match[1], tokens)
        if text is None:
            raise ConfigurationError(
                f"The template “{template}” has the unknown token {match[0]}. Known are {KNOWN}."
            )
        return text

    return TOKEN.sub(value, template)


def _value(token: str, tokens: Tokens) -> str | None:
    parts = NAME_AND_DAYS.fullmatch(token)
    if not parts or (parts["days"] and parts["name"] != "date"):
        return None
    try:
        return tokens.value(parts["name"], int(parts["days"] or 0))
    except (OverflowError, ValueError) as error:
        raise ConfigurationError(
            f"The date {{{token}}} cannot be written as “{tokens.date_format}”: {error}. "
            "Correct the date format or the number of days."
        ) from error


def file_name(template: str, tokens: Tokens) -> str:
    """One safe file name, without any folder in it.

    Characters that a token's value brings and that Windows or POSIX refuse become `_`. Raises
    `ConfigurationError` when the template itself names a folder, or nothing usable is left.
    """
    if "/" in template or "\\" in template:
        raise ConfigurationError(
            f"The file name template “{template}” contains a folder. Put it in “output dir”."
        )
    name = "".join("_" if _unsafe(char) else char for char in fill(template, tokens)).strip()
    if not name.strip(". ") or name.startswith((".", "-")):
        raise ConfigurationError(
            f"The file name template “{template}” gives “{name}”, which is no usable file name. "
            "Start it with a letter or a digit."
        )
    if len(name.encode()) > LONGEST_NAME_BYTES:
        raise ConfigurationError(
            f"The file name “{name[:40]}…” is longer than {LONGEST_NAME_BYTES} bytes. Shorten it."
        )
    return name


def _unsafe(char: str) -> bool:
    return char in REFUSED_BY_WINDOWS or unicodedata.category(char) in INVISIBLE


def folder_inside(root: Path, folder: str) -> Path:
    """`folder` as an absolute path under `root`; raises `ConfigurationError` if it leads outside.

    Links are followed before the check, so that one inside the folder cannot lead out of it.
    """
    relative = PurePosixPath(folder.replace("\\", "/"))
    safe = not relative.is_absolute() and ".." not in relative.parts
    safe = safe and not any(_unsafe(char) for part in relative.parts for char in part)
    path = (root / relative).resolve() if safe else root
    if not (safe and path.is_relative_to(root.resolve())):
        raise ConfigurationError(
            f"The folder “{folder}” lies outside the export folder, or its name is not usable. "
            "Give a path relative to it, without “..” and special characters."
        )
    return path
