"""Celery for a worker whose sweep takes a message for gone after seconds, so that a test can wait.

Called like `python -m celery`.
"""

import os

import django
from celery.__main__ import main

PATIENCE_SEC = 30

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "queryexport.settings")
    django.setup()
    from datetime import timedelta

    from scheduling import sweep

    sweep.DISPATCH_AGAIN_AFTER = timedelta(seconds=PATIENCE_SEC)
    main()
