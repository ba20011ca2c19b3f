"""What has to work in a scheduling item, each rule with the field that shows when it doesn't."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ValidationError

from kafka_sink.config import TOPIC_PATTERN
from queryexport import recipients
from queryexport.errors import ExportError
from queryexport.filenames import fill
from queryexport.models import are_weekdays
from queryexport.parameters import find_parameters
from queryexport.stores import check_url

if TYPE_CHECKING:
    from scheduling.models import SchedulingItem
    from scheduling.models.output import Output

HEADER_PREFIX = "query_export."
# Names are tried with the longest number that a run can have.
LARGEST_RUN_ID = 2**63 - 1
WATERMARK_NAMES = ("watermark_from", "watermark_to")
COLUMN_PATTERN = re.compile(r"[A-Za-z_]\w*", re.ASCII)

Rule = tuple[str, Callable[[], object]]


def rules(item: "SchedulingItem", moment: datetime) -> Sequence[Rule]:
    """The rules, tried as for a run at `moment`; each raises an error with a `message`."""
    found: list[Rule] = [
        ("parameters", partial(check_object, item.parameters)),
        ("parameters", partial(check_names, item.parameters)),
        *_places(item),
    ]
    if item.scheduling_mode == "classic":
        found.append(("days_of_week", partial(check_days, item.days_of_week)))
    elif item.cron_expression:
        found.append(("cron_expression", lambda: next(item.schedule.after(moment), None)))
    # Names and parameters need the query, whose absence is said already.
    return [*found, *_rules_with_query(item, moment)] if item.query_id else found


def _rules_with_query(item: "SchedulingItem", moment: datetime) -> Sequence[Rule]:
    found = _texts(item, moment)
    if isinstance(item.parameters, dict):
        field = "watermark_column" if watermark_fault(item) else "parameters"
        found.append((field, partial(item.check_parameters, moment)))
    return found


def output_rules(output: "Output", moment: datetime) -> Sequence[Rule]:
    """The rules of where rows go; `moment` as above."""
    return [*_places(output), *(_texts(output, moment) if output.source.query_id else ())]


def check(found: Sequence[Rule]) -> None:
    """Raises one `ValidationError` with all that does not hold, each with its field."""
    errors: dict[str, str] = {}
    for field, rule in found:
        try:
            rule()
        except (ExportError, ValidationError) as error:
            errors.setdefault(field, str(error.message))
    if errors:
        raise ValidationError(errors)


def _places(output: "Output") -> list[Rule]:
    return [
        ("output_dir", output.folder),
        ("output_url", partial(check_store, output)),
        ("output_filename_template", partial(check_extension, output)),
        ("output_zip_password", partial(check_packing, output)),
        ("workbook_template", partial(check_template_chosen, output)),
        ("email_to", partial(recipients.check, output.to, settings.EMAIL_ALLOWED_DOMAINS)),
        ("email_cc", partial(recipients.check, output.cc, settings.EMAIL_ALLOWED_DOMAINS)),
        ("email_bcc", partial(recipients.check, output.bcc, settings.EMAIL_ALLOWED_DOMAINS)),
        ("kafka_headers", partial(check_headers, output.kafka_headers)),
        ("kafka_topic", partial(check_topic, output.kafka_topic)),
        ("kafka_dead_letter_topic", partial(check_topic, output.kafka_dead_letter_topic)),
    ]


def _texts(output: "Output", moment: datetime) -> list[Rule]:
    tokens = output.tokens(moment, run_id=LARGEST_RUN_ID)
    in_mail = replace(tokens, row_count=0, run_url="https://…", file_name="…")
    return [
        ("output_filename_template", lambda: output.file_name(moment, run_id=LARGEST_RUN_ID)),
        ("email_subject", lambda: fill(one_line(output.email_subject), in_mail)),
        ("email_body", lambda: fill(output.email_body, in_mail)),
        ("email_body_html", lambda: fill(output.email_body_html, in_mail)),
    ]


def check_extension(output: "Output") -> None:
    """The name says what the file is."""
    if not output.output_filename_template.lower().endswith(output.extension):
        raise ValidationError(
            f"The name does not end in {output.extension}, the extension of the chosen format."
        )


def check_packing(output: "Output") -> None:
    if output.output_compress_gz and output.output_zip_password:
        raise ValidationError("Choose gzip or a zip with a password, not both.")


def check_template_chosen(output: "Output") -> None:
    if output.output_format == "template" and output.workbook_template_id is None:
        raise ValidationError("Choose the template that is to be filled, or another format.")


def check_store(output: "Output") -> None:
    if not output.output_url:
        return
    check_url(output.output_url)
    if output.output_on_existing == "keep":
        raise ValidationError(
            "A store keeps no old versions under a number. Choose what else happens if the file "
            "exists, or empty the URL."
        )


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
