"""Finds `:name` parameters in SQL and turns an item's values into values to bind."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from queryexport.errors import ConfigurationError

# What a colon may stand in without being a parameter; the first alternative that fits wins.
TOKENS = re.compile(
    r"""
      (?P<literal>  [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` )
    | (?P<dollar>   (?P<tag>\$\w*\$) .*? (?P=tag) )
    | (?P<comment>  --[^\n]* | /\*.*?\*/ )
    | (?P<cast>     ::+ | := )
    | (?P<word>     \w+ )
    | (?P<name>     (?<![\w\\]) : [A-Za-z_]\w* )
    | (?P<other>    . )
    """,
    re.VERBOSE | re.DOTALL,
)
RELATIVE_DAY = re.compile(r"\{today(?P<days>[+-]\d{1,5})?\}")


@dataclass(frozen=True)
class Statement:
    """SQL with its parameters marked for SQLAlchemy's `text()`, and the values to bind."""

    text: str
    values: Mapping[str, Any]


def find_parameters(sql: str) -> tuple[str, ...]:
    """The names of the `:name` parameters, each once, in order of appearance.

    A colon inside a literal, a quoted name, a comment, a dollar-quoted string, or a `::` cast is
    no parameter.
    """
    return tuple(dict.fromkeys(text[1:] for kind, text in _tokens(sql) if kind == "name"))


def bind(sql: str, values: Mapping[str, Any]) -> Statement:
    """`sql` ready for `text()`: only real parameters are left as such, the rest is escaped.

    Raises `ConfigurationError` when a parameter has no value or a value has no parameter.
    """
    names = find_parameters(sql)
    if missing := [name for name in names if name not in values]:
        raise ConfigurationError(
            f"The query uses :{', :'.join(missing)} but the item gives no value. "
            "Add it to the item's parameters."
        )
    if unused := [name for name in values if name not in names]:
        raise ConfigurationError(
            f"The item gives a value for {', '.join(unused)}, which the query does not use. "
            "Remove it from the item's parameters or write it as :name in the query."
        )
    escaped = (text if kind == "name" else text.replace(":", r"\:") for kind, text in _tokens(sql))
    return Statement("".join(escaped), {name: values[name] for name in names})


def resolve(values: Mapping[str, Any], *, today: date) -> dict[str, Any]:
    """The values with relative dates replaced: `{today}`, `{today-1}` and so on become dates.

    `today` is the local date of the slot, so that a late run asks for the same day as a punctual
    one. Raises `ConfigurationError` for any other token in braces.
    """
    return {name: _resolve(name, value, today) for name, value in values.items()}


def _resolve(name: str, value: Any, today: date) -> Any:
    if not (isinstance(value, str) and value.startswith("{") and value.endswith("}")):
        return value
    if match := RELATIVE_DAY.fullmatch(value):
        return today + timedelta(days=int(match["days"] or 0))
    raise ConfigurationError(
        f"Parameter {name} has the unknown relative date {value}. "
        "Use {today}, or {today-1}, {today+7} and so on."
    )


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    for match in TOKENS.finditer(sql):
        yield match.lastgroup or "other", match[0]
