"""Query Export: the Django project, and what and how to export."""

from queryexport.celery import app as celery_app

__all__ = ["celery_app"]
