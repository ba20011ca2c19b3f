"""Form parts that every app's admin uses: secrets that can be written and not read."""

from typing import Any

from django import forms

from queryexport.encryption import EncryptedTextField, Secret
from queryexport.models import BlackoutWindow, DatabaseConnection, Query

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class SecretInput(forms.PasswordInput):
    """A password box, and a tick box that clears what is stored. It never renders a value."""

    template_name = "queryexport/widgets/secret.html"

    def __init__(self, *, is_set: bool = False) -> None:
        super().__init__({"autocomplete": "new-password"}, render_value=False)
        self.is_set = is_set

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        context = super().get_context(name, None, attrs)
        return {**context, "is_set": self.is_set, "clear_name": f"{name}-clear"}

    def value_from_datadict(self, data: Any, files: Any, name: str) -> Any:
        entered = super().value_from_datadict(data, files, name)
        return CLEAR if f"{name}-clear" in data and not entered else entered


CLEAR = object()


class SecretField(forms.CharField):
    """Blank keeps the stored secret; text replaces it; the tick box clears it."""

    def __init__(self, stored: Secret, **kwargs: Any) -> None:
        super().__init__(strip=False, widget=SecretInput(is_set=bool(stored)), **kwargs)
        self._stored = stored

    def clean(self, value: Any) -> Secret:
        if value is CLEAR:
            return Secret("")
        return Secret(super().clean(value)) if value else self._stored

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(data)


class SecretModelForm(forms.ModelForm):
    """A model form whose encrypted fields are write-only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self._meta.model._meta.get_fields():
            if isinstance(field, EncryptedTextField) and field.name in self.fields:
                self.fields[field.name] = SecretField(
                    getattr(self.instance, field.name),
                    required=False,
                    label=self.fields[field.name].label,
                    help_text=field.help_text,
                )
                self.initial.pop(field.name, None)


class WeekdaysField(forms.TypedMultipleChoiceField):
    """Boxes to tick; gives a list of numbers, 0 for Monday to 6 for Sunday."""

    def __init__(self, **kwargs: Any) -> None:
        choices = list(enumerate(WEEKDAYS))
        widget = forms.CheckboxSelectMultiple
        super().__init__(choices=choices, coerce=int, widget=widget, **kwargs)


class BlackoutWindowForm(forms.ModelForm):
    days_of_week = WeekdaysField(
        label="days", initial=list(range(7)), help_text="The days on which it begins."
    )

    class Meta:
        model = BlackoutWindow
        fields = "__all__"


class DatabaseConnectionForm(SecretModelForm):
    class Meta:
        model = DatabaseConnection
        fields = "__all__"


class QueryForm(forms.ModelForm):
    class Meta:
        model = Query
        fields = "__all__"
        widgets = {"sql": forms.Textarea({"class": "vLargeTextField sql", "rows": 16})}
