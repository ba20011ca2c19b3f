"""System checks: what would fail during a run or a sweep, said before there is one."""

from typing import Any

from django.core.checks import CheckMessage, Error, register
from django.db import connection

from queryexport.checks import writable_folder


@register
def undelivered_root(**kwargs: Any) -> list[CheckMessage]:
    return writable_folder("UNDELIVERED_ROOT", of="Undelivered rows", error_id="scheduling.E001")


@register
def spool_root(**kwargs: Any) -> list[CheckMessage]:
    return writable_folder("SPOOL_ROOT", of="Spooled rows", error_id="scheduling.E003")


@register
def own_database(**kwargs: Any) -> list[CheckMessage]:
    """`scheduling.bulk` knows two databases."""
    if connection.vendor in ("postgresql", "sqlite"):
        return []
    return [
        Error(
            f"The product's own rows cannot be kept in {connection.display_name}.",
            hint="Let DATABASE_URL lead to PostgreSQL or to a SQLite file; queries may read "
            "from any of the engines.",
            id="scheduling.E002",
        )
    ]
