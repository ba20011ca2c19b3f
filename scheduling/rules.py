"""What has to work in a scheduling item, each rule with the field that shows when it doesn't."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from kafka_sink.config import TOPIC_PATTERN
from queryexport.filenames import fill
from queryexport.models import are_weekdays
from queryexport.parameters import find_parameters

if TYPE_CHECKING:
    from scheduling.models import SchedulingItem

HEADER_PREFIX = "query_export."
WATERMARK_NAMES = ("watermark_from", "watermark_to")
COLUMN_PATTERN = re.compile(r"[A-Za-z_]\w*", re.ASCII)

Rule = tuple[str, Callable[[], object]]


def rules(item: "SchedulingItem", moment: datetime) -> Sequence[Rule]:
    """The rules, tried as for a run at `moment`; each raises an error with a `message`."""
    found: list[Rule] = [
        ("parameters", partial(check_object, item.parameters)),
        ("parameters", partial(check_names, item.parameters)),
        ("output_dir", item.folder),
        ("email_to", partial(check_addresses, item.to)),
        ("email_cc", partial(check_addresses, item.cc)),
        ("kafka_headers", partial(check_headers, item.kafka_headers)),
        ("kafka_topic", partial(check_topic, item.kafka_topic)),
        ("kafka_dead_letter_topic", partial(check_topic, item.kafka_dead_letter_topic)),
    ]
    if item.scheduling_mode == "classic":
        found.append(("days_of_week", partial(check_days, item.days_of_week)))
    elif item.cron_expression:
        found.append(("cron_expression", lambda: next(item.schedule.after(moment), None)))
    # Names and parameters need the query, whose absence is said already.
    return [*found, *_rules_with_query(item, moment)] if item.query_id else found


def _rules_with_query(item: "SchedulingItem", moment: datetime) -> Sequence[Rule]:
    found: list[Rule] = [
        ("output_filename_template", partial(item.file_name, moment)),
        ("email_subject", lambda: fill(one_line(item.email_subject), item.tokens(moment))),
        ("email_body", lambda: fill(item.email_body, item.tokens(moment))),
    ]
    if isinstance(item.parameters, dict):
        field = "watermark_column" if watermark_fault(item) else "parameters"
        found.append((field, partial(item.check_parameters, moment)))
    return found


def addresses(text: str) -> list[str]:
    """The addresses between the vertical bars."""
    return [address.strip() for address in text.split("|") if address.strip()]


def check_addresses(found: Sequence[str]) -> None:
    for address in found:
        try:
            validate_email(address)
        except ValidationError as error:
            raise ValidationError(
                f"“{address}” is not a valid email address. Separate addresses with |."
            ) from error


def one_line(text: str) -> str:
    """Raises `ValidationError` for text that would start a further mail header."""
    if "\n" in text or "\r" in text:
        raise ValidationError("The subject must be one line.")
    return text


def check_object(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValidationError('Enter an object with names and values, for example {"day": "…"}.')


def check_names(parameters: Any) -> None:
    names = parameters if isinstance(parameters, dict) else ()
    if taken := [name for name in WATERMARK_NAMES if name in names]:
        raise ValidationError(
            f"{' and '.join(taken)} cannot be given here: each run gets it from the item's "
            "watermark. Remove it, or give your parameter another name."
        )


def watermark_fault(item: "SchedulingItem") -> str:
    """What is wrong between the item's watermark and its query, in words; empty when nothing is."""
    column, connection = item.watermark_column, item.connection if item.connection_id else None
    mysql = connection is not None and connection.reads_as_mysql
    used = find_parameters(item.query.sql, mysql=mysql)
    found = [f":{name}" for name in WATERMARK_NAMES if name in used]
    if not column:
        return (
            f"The query uses {' and '.join(found)}, but the item has no watermark column. Enter "
            "it in the field “watermark column”, or choose another query."
            if found
            else ""
        )
    if not COLUMN_PATTERN.fullmatch(column):
        return (
            f"“{column}” is no plain column name. It has letters, digits and underscores, for "
            "example updated_at; give the column such a name in the query with AS."
        )
    if len(found) < len(WATERMARK_NAMES):
        return (
            f"With a watermark the query says WHERE {column} > :watermark_from AND {column} <= "
            f":watermark_to, but it uses {f'only {found[0]}' if found else 'neither'}. Change the "
            "query, or leave the watermark column empty."
        )
    if connection and connection.engine == "sqlite" and item.watermark_kind == "time":
        return (
            "SQLite keeps times as text or as numbers. Choose that kind for the watermark, as the "
            f"column {column} holds them."
        )
    return ""


def check_headers(headers: Any) -> None:
    check_object(headers)
    for name, value in headers.items():
        if not isinstance(value, str):
            raise ValidationError(f'The header {name} must be text, for example "tracking".')
        if name.startswith(HEADER_PREFIX):
            raise ValidationError(
                f"Headers that begin with {HEADER_PREFIX} are added by themselves."
            )


def check_topic(name: str) -> None:
    """Nothing is a topic, too: none."""
    if name and (name in {".", ".."} or not re.fullmatch(TOPIC_PATTERN, name)):
        raise ValidationError(
            f"“{name}” is no topic name. It has letters, digits, dots, hyphens and underscores."
        )


def check_days(days: Any) -> None:
    if not are_weekdays(days):
        raise ValidationError("Days are numbers from 0 (Monday) to 6 (Sunday).")
