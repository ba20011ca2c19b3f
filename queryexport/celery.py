"""The Celery application that beat and the workers load."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "queryexport.settings")

app = Celery("queryexport")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
