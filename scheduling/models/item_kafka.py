"""How the rows of an item become messages on a topic, and what counts as delivered."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models


class KafkaNullKey(models.TextChoices):
    FAIL = "fail", "The run fails"
    SEND = "null", "It is sent without a key"
    SKIP = "skip", "It is left out and counted"


class KafkaGuarantee(models.TextChoices):
    AT_LEAST_ONCE = "at_least_once", "At least once, with a threshold"
    TRANSACTION = "transaction", "All or nothing, in one transaction"


class KafkaDelivery(models.Model):
    """The fields of an item that matter when it goes to Kafka."""

    kafka_connection = models.CharField(
        max_length=100,
        default="default",
        blank=True,
        help_text="Name of the Kafka connection, for example default.",
    )
    kafka_topic = models.CharField(
        max_length=249, blank=True, help_text="An existing topic, for example shipments.traces."
    )
    kafka_key_field = models.CharField(
        max_length=100,
        default="id",
        blank=True,
        help_text="Column whose value is the message key, for example codice_spedizione. Several "
        "columns, with commas between them, give a JSON array of their values.",
    )
    kafka_null_key = models.CharField(
        "Kafka NULL key",
        max_length=10,
        choices=KafkaNullKey,
        default=KafkaNullKey.FAIL,
        help_text="What happens to a row whose key is NULL, for example leave it out and count it.",
    )
    kafka_timestamp_field = models.CharField(
        max_length=100,
        blank=True,
        help_text="Column whose date or time becomes the message's, for example data_evento. "
        "Empty: the time of sending.",
    )
    kafka_headers = models.JSONField(
        default=dict,
        blank=True,
        help_text='Headers of every message, for example {"source": "tracking"}. Run, attempt and '
        "slot are added.",
    )
    kafka_decimals_as_numbers = models.BooleanField(
        default=False,
        help_text='Off: decimals are text, "12.50". On: they are numbers, 12.50, which many '
        "readers round.",
    )
    kafka_guarantee = models.CharField(
        max_length=15,
        choices=KafkaGuarantee,
        default=KafkaGuarantee.AT_LEAST_ONCE,
        help_text="At least once: each message counts by itself, and the share below decides. All "
        "or nothing: one transaction of at most 15 minutes; readers with read_committed see the "
        "whole run or none of it.",
    )
    kafka_least_percent = models.DecimalField(
        max_digits=5,
        decimal_places=2,
        default=95,
        validators=[MinValueValidator(0), MaxValueValidator(100)],
        help_text="With less than this share of the messages delivered a run has failed, with all "
        "of them it is a success, between the two it is partial, for example 95.",
    )
    kafka_allow_duplicates = models.BooleanField(
        default=False,
        help_text="On: messages whose fate is unknown are sent again, perhaps a second time.",
    )
    kafka_dead_letter_topic = models.CharField(
        max_length=249,
        blank=True,
        help_text="An existing topic that gets a copy of each message that was not delivered, with "
        "the reason in its headers, for example shipments.traces.dead. Empty: none.",
    )
    kafka_batch_size = models.PositiveIntegerField(
        default=100,
        validators=[MinValueValidator(1), MaxValueValidator(10_000)],
        help_text="Most messages in one request, 1 to 10000, for example 1000.",
    )
    kafka_include_metadata = models.BooleanField(
        default=True,
        help_text="Adds _metadata (query, connection, time, export id) to every message.",
    )

    class Meta:
        abstract = True
