"""System checks: what would keep undelivered rows from being kept, said before a run has any."""

from typing import Any

from django.core.checks import CheckMessage, register

from queryexport.checks import writable_folder


@register
def undelivered_root(**kwargs: Any) -> list[CheckMessage]:
    return writable_folder("UNDELIVERED_ROOT", of="Undelivered rows", error_id="scheduling.E001")
