"""System checks: what is wrong with an installation, said before the first run needs it."""

import os
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.checks import CheckMessage, Error, register


@register
def encryption_keys(**kwargs: Any) -> list[CheckMessage]:
    try:
        for key in settings.FIELD_ENCRYPTION_KEYS:
            Fernet(key)
    except ValueError as error:
        return [_bad_keys(str(error))]
    return [] if settings.FIELD_ENCRYPTION_KEYS else [_bad_keys("it is empty")]


@register
def export_root(**kwargs: Any) -> list[CheckMessage]:
    return writable_folder("EXPORT_ROOT", of="Exports", error_id="queryexport.E002")


def writable_folder(setting: str, *, of: str, error_id: str) -> list[CheckMessage]:
    """The nearest existing folder of the setting must be writable, so that it can be made."""
    root = Path(getattr(settings, setting))
    nearest = next(path for path in (root, *root.absolute().parents) if path.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK):
        return []
    return [
        Error(
            f"{of} cannot be written to {setting} {root}.",
            hint=f"Make {nearest} a folder that the worker may write to, or set {setting}.",
            id=error_id,
        )
    ]


def _bad_keys(reason: str) -> CheckMessage:
    return Error(
        f"FIELD_ENCRYPTION_KEYS cannot be used: {reason}.",
        hint="Set it to one or more Fernet keys, newest first; `make .env` writes one.",
        id="queryexport.E001",
    )
