"""Form parts that every app's admin uses: secrets that can be written and not read."""

from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile

from queryexport.encryption import EncryptedTextField, Secret
from queryexport.errors import ConfigurationError
from queryexport.formats.template import check_template
from queryexport.models import BlackoutWindow, DatabaseConnection, Query, WorkbookTemplate

LARGEST_TEMPLATE_BYTES = 10_000_000
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


class WorkbookTemplateForm(forms.ModelForm):
    """Takes the workbook as an upload. Without one, the stored workbook stays."""

    upload = forms.FileField(
        label="Workbook",
        widget=forms.FileInput({"accept": ".xlsx"}),
        help_text="An .xlsx file of at most 10 MB that is not encrypted.",
    )

    class Meta:
        model = WorkbookTemplate
        fields = ("name", "start_name", "with_header")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk and "upload" in self.fields:
            self.fields["upload"].required = False
            self.fields["upload"].help_text += " Leave it empty to keep the stored one."

    def clean_upload(self) -> UploadedFile | None:
        upload: UploadedFile | None = self.cleaned_data["upload"]
        if upload and (upload.size or 0) > LARGEST_TEMPLATE_BYTES:
            raise ValidationError(
                f"The workbook has {upload.size:,} bytes, and a template at most "
                f"{LARGEST_TEMPLATE_BYTES:,}. Make its pictures smaller, or remove what is not "
                "needed."
            )
        return upload

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if not self.errors:
            self._take(data.get("upload"), data["start_name"])
        return data

    def _take(self, upload: UploadedFile | None, start_name: str) -> None:
        """Puts the workbook into the instance if rows can be filled in from that cell."""
        content = upload.read() if upload else bytes(self.instance.content)
        try:
            check_template(content, start_name)
        except ConfigurationError as error:
            self.add_error("upload" if upload else "start_name", error.message)
            return
        if upload:
            self.instance.content = content
            self.instance.sha256 = sha256(content).hexdigest()
            self.instance.file_name = PurePosixPath(upload.name or "template.xlsx").name[-200:]
