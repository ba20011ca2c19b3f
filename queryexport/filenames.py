"""Fills `{query_name}_{date-1}.xlsx` and keeps the result inside the export folder."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path, PurePosixPath

from queryexport.errors import ConfigurationError

TOKEN = re.compile(r"\{([^{}]*)\}")
PARTS_OF_TOKEN = re.compile(
    r"(?P<name>[a-z_]+)(?P<days>[+-][0-9]{1,5})?(?::(?P<format>.+))?", re.DOTALL
)
NAME_TOKENS = frozenset({"query_name", "item", "connection", "date", "timestamp", "run_id"})
MAIL_TOKENS = frozenset({"row_count", "run_url", "file_name"})
KNOWN = (
    "{query_name}, {item}, {connection}, {date}, {date-1} (any number of days), {date:%Y%m}, "
    "{date-1:%Y%m}, {timestamp}, {run_id}"
)
KNOWN_IN_MAILS = f"{KNOWN}, {{row_count}}, {{run_url}}, {{file_name}}"

# What means the same on every platform, and holds no separator.
DIRECTIVES = frozenset("aAbBdHIjmMpSuUVwWyYG%")
DIRECTIVE = re.compile(r"%(.?)", re.DOTALL)

REFUSED_BY_WINDOWS = frozenset('<>:"/\\|?*')
# Microsoft: “Naming Files, Paths, and Namespaces”; with any extension, and in any case.
RESERVED_BY_WINDOWS = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    | {f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789¹²³"}
)
# Control and format characters (which turn text around), lone surrogates, line separators.
INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# File systems take 255. The rest is for a number, an added .gz, and what people put in front.
LONGEST_NAME_BYTES = 200
LONGEST_FOLDER_BYTES = 255
SUFFIX = re.compile(r"(?:\.[a-z]\w{0,7})?(?:\.(?:gz|zip))?\Z", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Tokens:
    """The values that templates may use, all taken from the slot and not from the clock.

    `day` is the slot's local day, to which `{date}` adds `offset_days`; `slot` is the slot in local
    time, and `date_format` is strftime's, restricted to `DIRECTIVES`. `run_id` and `row_count` are
    None before there are any, as when an item is saved, and written as 0 then. `row_count`,
    `run_url` and `file_name` are for mails alone.
    """

    query_name: str
    day: date
    slot: datetime
    date_format: str = "%Y-%m-%d"
    offset_days: int = 0
    item: str = ""
    connection: str = ""
    run_id: int | None = None
    row_count: int | None = None
    run_url: str = ""
    file_name: str = ""

    @property
    def start_date(self) -> date:
        """The day that `{date}` stands for."""
        return self.day + timedelta(days=self.offset_days)

    def value(self, name: str, days: int, date_format: str) -> str | None:
        """The token's text; `days` and `date_format` ("" for the usual one) are for `date`."""
        match name:
            case "query_name":
                return self.query_name.removesuffix(".sql")
            case "date":
                return self._date(days, date_format or self.date_format)
            case "timestamp":
                return self.slot.strftime("%Y%m%d%H%M%S")
            case "run_id" | "row_count":
                return str(getattr(self, name) or 0)
            case "item" | "connection" | "run_url" | "file_name":
                return str(getattr(self, name))
        return None

    def _date(self, days: int, date_format: str) -> str:
        """The day as the format says; hours, minutes and seconds are the slot's."""
        day = self.start_date + timedelta(days=days)
        moment = datetime.combine(day, self.slot.time())

        def written(directive: re.Match[str]) -> str:
            if directive[1] not in DIRECTIVES:
                raise ValueError(f"{directive[0]} does not mean the same everywhere")
            return moment.strftime(directive[0])

        return DIRECTIVE.sub(written, date_format)


def fill(template: str, tokens: Tokens, *, quote: Callable[[str], str] = str) -> str:
    """A mail's template with its tokens replaced, each value handed through `quote`.

    Raises `ConfigurationError` for an unknown token.
    """
    return _filled(template, tokens, NAME_TOKENS | MAIL_TOKENS, lambda _, value: quote(value))


def _filled(
    template: str, tokens: Tokens, known: frozenset[str], clean: Callable[[str, str], str]
) -> str:
    """Replaces the `known` tokens by `clean(name, value)`."""

    def value(match: re.Match[str]) -> str:
        parts = PARTS_OF_TOKEN.fullmatch(match[1])
        name = parts["name"] if parts else ""
        more = bool(parts and (parts["days"] or parts["format"]))
        if parts and name in known and (name == "date" or not more):
            text = _value(parts, match[0], tokens)
            if text is not None:
                return clean(name, text)
        raise _unknown(template, match[0], name, known)

    return TOKEN.sub(value, template)


def _unknown(template: str, token: str, name: str, known: frozenset[str]) -> ConfigurationError:
    if name in MAIL_TOKENS - known:
        return ConfigurationError(
            f"The file name template “{_shown(template)}” has the token {token}, which works only "
            "in a mail's subject and body. Remove it from the file name."
        )
    words = KNOWN_IN_MAILS if known >= MAIL_TOKENS else KNOWN
    return ConfigurationError(
        f"The template “{_shown(template)}” has the unknown token {_shown(token)}. "
        f"Known are {words}."
    )


def _value(parts: re.Match[str], token: str, tokens: Tokens) -> str | None:
    date_format = parts["format"] or ""
    try:
        return tokens.value(parts["name"], int(parts["days"] or 0), date_format)
    except (OverflowError, ValueError) as error:
        shown = _shown(date_format or tokens.date_format)
        raise ConfigurationError(
            f"The date {_shown(token)} cannot be written as “{shown}”: {_shown(str(error))}. "
            "Correct the date format or the number of days. %Y, %m, %d, %H, %M, %S, %y, %b, %a, "
            "%j, %G, %V and %u can be used."
        ) from error


def file_name(template: str, tokens: Tokens) -> str:
    """One safe file name in NFC, without any folder in it, of at most `LONGEST_NAME_BYTES` bytes.

    Characters that a token's value brings and that Windows or POSIX refuse become `_`. Raises
    `ConfigurationError` when the template itself or a date format has one, and when the name would
    be hidden, an option (`-x`), or one that Windows cannot have.
    """
    _check_literal(template)
    filled = _filled(template, tokens, NAME_TOKENS, _clean)
    name = unicodedata.normalize("NFC", filled)
    if fault := _fault(name):
        raise ConfigurationError(
            f"The file name template “{_shown(template)}” gives “{name}”, which {fault}"
        )
    if len(name.encode()) > LONGEST_NAME_BYTES:
        raise ConfigurationError(
            f"The file name “{name[:40]}…” is longer than {LONGEST_NAME_BYTES} bytes. Shorten it."
        )
    return name


def _check_literal(template: str) -> None:
    """What stands between the tokens is written by a person, who is told and not corrected."""
    literal = TOKEN.sub("", template)
    shown = f"The file name template “{_shown(template)}”"
    if "/" in literal or "\\" in literal:
        raise ConfigurationError(f"{shown} contains a folder. Put it in “output dir”.")
    if "{" in literal or "}" in literal:
        raise ConfigurationError(
            f"{shown} has a brace without its partner. Write tokens as {{date}}."
        )
    if ".." in literal:
        raise ConfigurationError(f"{shown} contains two dots in a row. Write one.")
    if bad := next(filter(_is_unsafe, unicodedata.normalize("NFC", literal)), None):
        raise ConfigurationError(
            f"{shown} contains {_named(bad)}, which a file name cannot have. Remove it."
        )


def _clean(name: str, value: str) -> str:
    value = unicodedata.normalize("NFC", value)
    bad = next(filter(_is_unsafe, value), None)
    if bad and name == "date":
        raise ConfigurationError(
            f"The date format gives “{_shown(value)}”, which contains {_named(bad)} and cannot be "
            "part of a file name. Separate with hyphens, for example %Y-%m-%d."
        )
    return "".join("_" if _is_unsafe(char) else char for char in value)


def _fault(name: str) -> str:
    """What keeps a name of safe characters from being one, in words; empty when nothing does."""
    if not name.strip(". ") or name.startswith((".", "-")):
        return "is no usable file name. Start it with a letter or a digit."
    if name != name.strip() or name.endswith("."):
        return "begins or ends with a blank, or ends with a dot. Remove that: Windows does."
    if name.partition(".")[0].rstrip().upper() in RESERVED_BY_WINDOWS:
        return "is the name of a device on Windows. Put something in front of it."
    if any(map(_is_unsafe, name)):
        return "has characters that a file name cannot have. Remove them."
    return ""


def _is_unsafe(char: str) -> bool:
    return char in REFUSED_BY_WINDOWS or unicodedata.category(char) in INVISIBLE


def _named(char: str) -> str:
    name = unicodedata.name(char, "")
    return f"U+{ord(char):04X} ({name})" if name else f"U+{ord(char):04X}"


def _shown(text: str) -> str:
    """For people: what is invisible, or turns the text around, shows as a replacement mark."""
    return "".join("\ufffd" if unicodedata.category(char) in INVISIBLE else char for char in text)


def numbered(name: str, number: int) -> str:
    """The second `a.csv.zip` is `a_2.csv.zip`: the number goes before the whole suffix."""
    return _with(name, f"_{number}")


def version(name: str, number: int) -> str:
    """The file before `a.csv.zip` is `a.1.csv.zip`, the one before that `a.2.csv.zip`."""
    return _with(name, f".{number}")


def _with(name: str, mark: str) -> str:
    found = SUFFIX.search(name)
    assert found, "the pattern matches nothing, too"
    return f"{name[: found.start()]}{mark}{found[0]}"


def folder_inside(root: Path, folder: str) -> Path:
    """`folder` as an absolute path under `root`; raises `ConfigurationError` if it leads outside.

    Links are followed before the check, so that one inside the folder cannot lead out of it. What
    becomes of the path later is for `queryexport.sinks.folder` to watch.
    """
    relative = PurePosixPath(folder.replace("\\", "/"))
    if relative.is_absolute() or not all(map(_is_safe_folder, relative.parts)):
        raise _outside(folder)
    try:
        path = (root / relative).resolve()
        # Links that go round in a circle: a RuntimeError before Python 3.13, and left since then.
        in_circle = any(map(Path.is_symlink, (path, *path.parents)))
        inside = path.is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:
        raise _outside(folder) from error
    if in_circle or not inside:
        raise _outside(folder)
    return path


def _is_safe_folder(part: str) -> bool:
    windows_drops = part.endswith((".", " "))
    reserved = part.partition(".")[0].rstrip().upper() in RESERVED_BY_WINDOWS
    if windows_drops or reserved or any(map(_is_unsafe, part)):
        return False
    return len(part.encode()) <= LONGEST_FOLDER_BYTES


def _outside(folder: str) -> ConfigurationError:
    return ConfigurationError(
        f"The folder “{_shown(folder)}” lies outside the export folder, or its name is not usable. "
        "Give a path relative to it, without “..”, special characters, blanks or dots at the end "
        "of a name, names of devices on Windows, and names of more than 255 bytes."
    )
