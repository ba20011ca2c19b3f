"""The forms about watermarks: setting one, and what becomes of it when its rows are redefined."""

from collections.abc import Iterable, Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from queryexport.errors import ConfigurationError
from queryexport.forms import QueryForm
from queryexport.models import Query
from scheduling import watermarks
from scheduling.forms import SchedulingItemForm
from scheduling.models import SchedulingItem, WatermarkKind
from scheduling.watermark_values import EXAMPLES, parse

KEEP, EMPTY = "keep", "empty"
# What decides which rows of an item lie above its watermark.
DEFINING = ("query", "connection", "watermark_column", "watermark_kind")


class WatermarkForm(forms.Form):
    """A new watermark for an item, and why."""

    value = forms.CharField(
        required=False, strip=False, max_length=200, label="New watermark",
        widget=forms.TextInput({"class": "vTextField"}),
    )  # fmt: skip
    reason = forms.CharField(
        max_length=watermarks.LONGEST_REASON,
        widget=forms.TextInput({"class": "vLargeTextField"}),
        help_text="For example The partner lost the files of Monday.",
    )

    def __init__(self, item: SchedulingItem, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data)
        self._kind = WatermarkKind(item.watermark_kind)
        self.fields["value"].help_text = (
            f"Rows above it are sent by the next run; for example {EXAMPLES[self._kind]}. "
            "Empty: none, and the item's runs fail until one is set."
        )

    def clean_value(self) -> str:
        value: str = self.cleaned_data["value"]
        try:
            if value:
                parse(self._kind, value)
        except ConfigurationError as error:
            raise ValidationError(error.message) from error
        return value


class MarksQuestion(forms.ModelForm):
    """The part of a form that asks what becomes of watermarks when their rows are redefined.

    `decision` is the answer once the form is valid, and empty when nothing had to be asked.
    """

    marks = forms.ChoiceField(
        required=False,
        label="Watermark after the change",
        choices=[
            ("", "—"),
            (KEEP, "Keep it: it means the same rows as before"),
            (EMPTY, "Empty it: the item does not run until a new one is set"),
        ],
    )

    decision = ""

    def ask(self, found: Iterable[tuple[SchedulingItem, str]], *, changed: str) -> None:
        """Takes the answer, or adds the question as an error; without items there is none."""
        named = ", ".join(f"“{item}” (at {mark})" for item, mark in found)
        if not named:
            return
        self.decision = self.cleaned_data.get("marks", "")
        if not self.decision:
            self.add_error(
                "marks",
                f"You change {changed}, and these have come to a watermark: {named}. Choose "
                "whether it still means the same rows and is kept, or is emptied.",
            )


class WatermarkedItemForm(MarksQuestion, SchedulingItemForm):
    """The item's form, with the question."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["marks"].help_text = (
            "Needed only when you change the query, the connection, or the watermark's column or "
            "kind."
        )

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if changed := [name for name in DEFINING if name in self.changed_data]:
            words = " and ".join(self._meta.model._meta.get_field(n).verbose_name for n in changed)
            stored = SchedulingItem.objects.filter(pk=self.instance.pk)
            found = watermarks.with_marks(stored)
            self.ask(found, changed=f"the {words}")
            if found and self.decision == KEEP:
                self._check_kept(found[0][1], data)
        return data

    def _check_kept(self, mark: str, data: Mapping[str, Any]) -> None:
        try:
            parse(data.get("watermark_kind", self.instance.watermark_kind), mark)
        except (ConfigurationError, ValueError):
            self.add_error("marks", f"The watermark {mark} is not of the new kind. Empty it.")


class QueryOfItemsForm(MarksQuestion, QueryForm):
    """The query's form, with the question for the items that use it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["marks"].help_text = "Needed only when you change the SQL."

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        before, after = self.initial.get("sql", ""), data.get("sql")
        # A browser sends other ends of lines than may be stored.
        if self.instance.pk and after and before.strip().splitlines() != after.splitlines():
            self.ask(watermarked_items(self.instance), changed="the SQL")
        return data


def watermarked_items(query: Query) -> list[tuple[SchedulingItem, str]]:
    """The items that run the query by a watermark which is set, each with its value."""
    items = SchedulingItem.objects.filter(query=query).exclude(watermark_column="")
    return watermarks.with_marks(items)
