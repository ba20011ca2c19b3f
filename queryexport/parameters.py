"""Finds `:name` parameters in SQL and turns an item's values into values to bind."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, NamedTuple

from queryexport.errors import ConfigurationError, QueryError

# What a colon or a semicolon may stand in; the first alternative that fits wins.
TOKENS = r"""
      (?P<literal>  {literal} | `[^`]*` )
    | (?P<dollar>   (?P<tag>\$\w*\$) .*? (?P=tag) )
    | (?P<comment>  {comment} | /\*.*?\*/ )
    | (?P<cast>     ::+ | := )
    | (?P<word>     \w+ )
    | (?P<name>     (?<![\w\\]) : [A-Za-z_]\w* )
    | (?P<blank>    \s+ )
    | (?P<other>    . )
    """
FLAGS = re.VERBOSE | re.DOTALL
STANDARD = re.compile(
    TOKENS.format(
        literal=r"""[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" """,
        comment=r"--[^\n]*",
    ),
    FLAGS,
)
# In MySQL a backslash escapes the next character of a literal; # begins a comment, and so does
# --, but only before a blank.
MYSQL = re.compile(
    TOKENS.format(
        literal=r"""'(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" """,
        comment=r"--(?=\s|\Z)[^\n]* | \#[^\n]*",
    ),
    FLAGS,
)
RELATIVE_DAY = re.compile(r"\{today(?P<days>[+-]\d{1,5})?\}")


@dataclass(frozen=True)
class Statement:
    """SQL with its parameters marked for SQLAlchemy's `text()`, and the values to bind."""

    text: str
    values: Mapping[str, Any]


class Token(NamedTuple):
    """A piece of SQL, and which alternative of `TOKENS` it is."""

    kind: str
    text: str


def find_parameters(sql: str, *, mysql: bool = False) -> tuple[str, ...]:
    """The names of the `:name` parameters, each once, in order of appearance.

    A colon inside a literal, a quoted name, a comment, a dollar-quoted string, or a `::` cast is
    no parameter. `mysql` reads literals and comments as MySQL and MariaDB do.
    """
    return _names(_tokens(sql, mysql=mysql))


def bind(sql: str, values: Mapping[str, Any], *, mysql: bool = False) -> Statement:
    """`sql` ready for `text()`: only real parameters are left as such, the rest is escaped.

    A closing semicolon is dropped, and so are the brackets of `IN (:list)`, which a list brings
    itself. Raises `ConfigurationError` when a parameter has no value or a value has no parameter,
    `QueryError` when a second statement follows.
    """
    tokens = _first_statement(_tokens(sql, mysql=mysql))
    names = _names(tokens)
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
    bare = _without_brackets(tokens, {f":{name}" for name in names if is_list(values[name])})
    escaped = (
        token.text if token.kind == "name" else token.text.replace(":", r"\:") for token in bare
    )
    return Statement("".join(escaped), {name: values[name] for name in names})


def check_single(sql: str, *, mysql: bool = False) -> None:
    """Raises `QueryError` when the SQL holds more than one statement."""
    _first_statement(_tokens(sql, mysql=mysql))


def first_statement(sql: str, *, mysql: bool = False) -> str:
    """The SQL without a closing semicolon; raises `QueryError` when a second statement follows."""
    return "".join(token.text for token in _first_statement(_tokens(sql, mysql=mysql)))


def is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def resolve(values: Mapping[str, Any], *, today: date) -> dict[str, Any]:
    """The values with relative dates replaced: `{today}`, `{today-1}` and so on become dates.

    `today` is the local date of the slot, so that a late run asks for the same day as a punctual
    one. Raises `ConfigurationError` for any other token in braces.
    """
    return {name: _resolve(name, value, today) for name, value in values.items()}


def _resolve(name: str, value: Any, today: date) -> Any:
    if is_list(value):
        return [_resolve(name, each, today) for each in value]
    if not (isinstance(value, str) and value.startswith("{") and value.endswith("}")):
        return value
    if match := RELATIVE_DAY.fullmatch(value):
        return today + timedelta(days=int(match["days"] or 0))
    raise ConfigurationError(
        f"Parameter {name} has the unknown relative date {value}. "
        "Use {today}, or {today-1}, {today+7} and so on."
    )


def _tokens(sql: str, *, mysql: bool) -> list[Token]:
    pattern = MYSQL if mysql else STANDARD
    return [Token(match.lastgroup or "other", match[0]) for match in pattern.finditer(sql)]


def _names(tokens: Iterable[Token]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(token.text[1:] for token in tokens if token.kind == "name"))


def _first_statement(tokens: Sequence[Token]) -> Sequence[Token]:
    ends = (number for number, token in enumerate(tokens) if token == ("other", ";"))
    end = next(ends, len(tokens))
    if any(token.kind not in ("blank", "comment") and token.text != ";" for token in tokens[end:]):
        raise QueryError(
            "The query holds more than one statement. An export runs one SELECT; remove what "
            "follows its semicolon."
        )
    return tokens[:end]


def _without_brackets(tokens: Sequence[Token], lists: Container[str]) -> Iterator[Token]:
    """The tokens without the brackets around each list that stands alone after IN."""
    solid = [number for number, token in enumerate(tokens) if token.kind != "blank"]
    dropped: set[int] = set()
    for word, opening, name, closing in zip(solid, solid[1:], solid[2:], solid[3:], strict=False):
        if (
            tokens[word].text.upper() == "IN"
            and tokens[opening].text == "("
            and tokens[name].text in lists
            and tokens[closing].text == ")"
        ):
            dropped |= {opening, closing}
    return (token for number, token in enumerate(tokens) if number not in dropped)
