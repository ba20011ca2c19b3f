"""The app that says when exports run."""

from django.apps import AppConfig


class SchedulingConfig(AppConfig):
    name = "scheduling"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from scheduling import beat, shutdown, slots
        from scheduling import checks as checks  # Its import registers them.

        beat.keep_in_step()
        slots.start_afresh_after_a_load()
        shutdown.listen()
