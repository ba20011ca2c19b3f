"""Further destinations of an item, beside its own: they get the same rows of the same query."""

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.timezone import now

from scheduling.models.item import SchedulingItem
from scheduling.models.item_constraints import output_constraints
from scheduling.models.output import Output, SharingMode
from scheduling.rules import check, output_rules

ONE_TOPIC = "An item goes to one Kafka topic. Make another item for a second one."


class Destination(Output, models.Model):
    """One more place where the rows of an item go.

    The query runs once for all of them. Each has its own outcome, and a further attempt delivers
    only to those that did not get all.
    """

    item = models.ForeignKey(
        SchedulingItem,
        on_delete=models.CASCADE,
        related_name="destinations",
        help_text="The item whose rows it gets, for example Daily traces.",
    )
    name = models.CharField(
        max_length=100, help_text="What history calls it, for example Copy for the partner."
    )
    enabled = models.BooleanField(default=True, help_text="Only enabled ones get rows.")

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["item", "name"],
                name="destination_name_once_per_item",
                violation_error_message="Another destination of this item has that name.",
            ),
            models.UniqueConstraint(
                fields=["item"],
                name="destination_kafka_once_per_item",
                condition=models.Q(sharing_mode="kafka"),
                violation_error_message=ONE_TOPIC,
            ),
            *output_constraints("destination"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def source(self) -> SchedulingItem:
        return self.item

    @property
    def label(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.item_id:
            check([*output_rules(self, now()), ("sharing_mode", self._check_one_topic)])

    def _check_one_topic(self) -> None:
        others = self.item.destinations.filter(sharing_mode=SharingMode.KAFKA).exclude(pk=self.pk)
        if self.topic() and (self.item.topic() or others.exists()):
            raise ValidationError(ONE_TOPIC)
