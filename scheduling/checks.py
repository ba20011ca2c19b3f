"""System checks: what would keep undelivered rows from being kept, said before a run has any."""

import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register


@register
def undelivered_root(**kwargs: Any) -> list[CheckMessage]:
    """The nearest existing folder of UNDELIVERED_ROOT must be writable, so that it can be made."""
    root = Path(settings.UNDELIVERED_ROOT)
    nearest = next(path for path in (root, *root.absolute().parents) if path.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK):
        return []
    return [
        Error(
            f"Undelivered rows cannot be written to UNDELIVERED_ROOT {root}.",
            hint=f"Make {nearest} a folder that the worker may write to, or set UNDELIVERED_ROOT.",
            id="scheduling.E001",
        )
    ]
