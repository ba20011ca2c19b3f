"""What the database itself refuses of a scheduling item, with the words that the form shows."""

from django.db import models
from django.db.models import F, Q


def output_constraints(prefix: str) -> list[models.BaseConstraint]:
    """Those of where rows go, named after the model whose they are."""
    return [
        models.CheckConstraint(
            condition=Q(sharing_mode__in=["filesystem", "email", "kafka"]),
            name=f"{prefix}_sharing_mode_known",
            violation_error_message="Choose a file, an e-mail or Kafka.",
        ),
        models.CheckConstraint(
            condition=~Q(output_filename_template="") & ~Q(output_date_format=""),
            name=f"{prefix}_file_has_name",
            violation_error_message="Enter a file name and a date format.",
        ),
        models.CheckConstraint(
            condition=Q(output_offset_days__range=(-3660, 3660)),
            name=f"{prefix}_offset_range",
            violation_error_message="The offset is at most ten years either way.",
        ),
        models.CheckConstraint(
            condition=~Q(sharing_mode="email") | ~Q(email_to=""),
            name=f"{prefix}_email_has_recipient",
            violation_error_message="Enter at least one address in “email to”.",
        ),
        models.CheckConstraint(
            condition=~Q(sharing_mode="kafka")
            | ~Q(kafka_topic="") & ~Q(kafka_key_field="") & ~Q(kafka_connection=""),
            name=f"{prefix}_kafka_has_topic_key_connection",
            violation_error_message="Kafka needs a topic, a key field and a connection.",
        ),
        models.CheckConstraint(
            condition=Q(kafka_null_key__in=["fail", "null", "skip"]),
            name=f"{prefix}_kafka_null_key_known",
            violation_error_message="Choose what happens to a row whose key is NULL.",
        ),
        models.CheckConstraint(
            condition=Q(kafka_guarantee__in=["at_least_once", "transaction"]),
            name=f"{prefix}_kafka_guarantee_known",
            violation_error_message="Choose at least once, or all or nothing.",
        ),
        models.CheckConstraint(
            condition=Q(kafka_least_percent__range=(0, 100)),
            name=f"{prefix}_kafka_least_percent_range",
            violation_error_message="The least share delivered is between 0 and 100 percent.",
        ),
        models.CheckConstraint(
            condition=Q(kafka_batch_size__range=(1, 10_000)),
            name=f"{prefix}_kafka_batch_size_range",
            violation_error_message="The Kafka batch size is between 1 and 10000.",
        ),
        models.CheckConstraint(
            condition=Q(kafka_dead_letter_topic="") | ~Q(kafka_dead_letter_topic=F("kafka_topic")),
            name=f"{prefix}_kafka_dead_letters_go_elsewhere",
            violation_error_message="Choose a dead-letter topic other than the topic itself.",
        ),
        models.CheckConstraint(
            condition=Q(kafka_dead_letter_topic="") | ~Q(kafka_guarantee="transaction"),
            name=f"{prefix}_kafka_transaction_has_no_dead_letters",
            violation_error_message="All or nothing has no dead letters: one refused row takes the "
            "whole run back. Leave the dead-letter topic empty, or choose at least once.",
        ),
        models.CheckConstraint(
            condition=Q(output_format__in=["xlsx", "template", "csv", "jsonl", "parquet"]),
            name=f"{prefix}_output_format_known",
            violation_error_message="Choose one of the listed formats.",
        ),
        models.CheckConstraint(
            condition=Q(output_on_existing__in=["replace", "refuse", "number", "keep"])
            & Q(output_keep_versions__range=(1, 99)),
            name=f"{prefix}_output_on_existing_known",
            violation_error_message="Choose what happens if the file exists; 1 to 99 versions "
            "are kept.",
        ),
        models.CheckConstraint(
            condition=Q(csv_delimiter__in=[",", ";", "\t", "|"])
            & Q(csv_encoding__in=["utf-8", "utf-8-sig", "cp1252", "iso-8859-15"]),
            name=f"{prefix}_csv_known",
            violation_error_message="Choose one of the listed delimiters and encodings.",
        ),
        models.CheckConstraint(
            condition=~Q(output_format="template") | Q(workbook_template__isnull=False),
            name=f"{prefix}_template_chosen",
            violation_error_message="Choose the template that is to be filled.",
        ),
        models.CheckConstraint(
            condition=Q(email_too_large__in=["fail", "link"])
            & Q(email_no_rows__in=["send", "skip", "note"]),
            name=f"{prefix}_email_choices_known",
            violation_error_message="Choose what happens to a message that is too large, or has no "
            "rows.",
        ),
        models.CheckConstraint(
            condition=(Q(retention_days__isnull=True) | Q(retention_days__gte=1))
            & (Q(retention_files__isnull=True) | Q(retention_files__gte=1)),
            name=f"{prefix}_retention_range",
            violation_error_message="Files are kept for at least a day, and at least one of them.",
        ),
    ]


CONSTRAINTS: list[models.BaseConstraint] = [
    *output_constraints("item"),
    models.CheckConstraint(
        condition=Q(scheduling_mode__in=["classic", "cron"]),
        name="item_scheduling_mode_known",
        violation_error_message="Choose days and time, or a cron expression.",
    ),
    models.CheckConstraint(
        condition=~Q(scheduling_mode="cron") | ~Q(cron_expression=""),
        name="item_cron_has_expression",
        violation_error_message="Enter a cron expression, for example 0 8 * * *.",
    ),
    models.CheckConstraint(
        condition=~Q(scheduling_mode="classic") | ~Q(days_of_week=[]),
        name="item_classic_has_days",
        violation_error_message="Choose at least one day of the week.",
    ),
    models.CheckConstraint(
        condition=Q(hour__lte=23) & Q(minute__lte=59),
        name="item_time_of_day",
        violation_error_message="The time is between 0:00 and 23:59.",
    ),
    models.CheckConstraint(
        condition=Q(most_attempts__range=(1, 20)) & Q(retry_delay_minutes__lte=1440),
        name="item_attempts_range",
        violation_error_message="A slot is tried 1 to 20 times, with at most a day between.",
    ),
    models.CheckConstraint(
        condition=Q(catch_up__in=["skip", "latest", "all"]) & Q(catch_up_minutes__lte=10_080),
        name="item_catch_up_known",
        violation_error_message="Choose which late slots run, and a window of at most a week.",
    ),
    models.CheckConstraint(
        condition=Q(overlap__in=["skip", "queue", "allow"]),
        name="item_overlap_known",
        violation_error_message="Choose what happens when runs overlap.",
    ),
    models.CheckConstraint(
        condition=Q(work_queue__in=["short", "long"]),
        name="item_work_queue_known",
        violation_error_message="Choose the short or the long queue.",
    ),
    models.CheckConstraint(
        condition=Q(no_progress_minutes__range=(1, 1440), time_limit_minutes__range=(1, 1440)),
        name="item_limits_range",
        violation_error_message="The limits are between one minute and a day.",
    ),
    models.CheckConstraint(
        condition=Q(watermark_kind__in=["time", "number", "text"]),
        name="item_watermark_kind_known",
        violation_error_message="Choose what the watermark column holds.",
    ),
    models.CheckConstraint(
        condition=Q(watermark_lag_sec=0) | Q(watermark_kind="time"),
        name="item_watermark_lag_of_a_time",
        violation_error_message="Only a watermark that is a time can have a lag.",
    ),
    models.CheckConstraint(
        condition=Q(watermark_column="") | ~Q(overlap="allow"),
        name="item_watermark_runs_one_by_one",
        violation_error_message="Runs of an item with a watermark cannot overlap, because both "
        "would send the same rows. Choose another overlap.",
    ),
]
