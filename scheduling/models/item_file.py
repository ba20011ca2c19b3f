"""What the file of an item looks like, what it is called, and where it goes."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from queryexport.encryption import EncryptedTextField
from queryexport.models import WorkbookTemplate


class FileFormat(models.TextChoices):
    XLSX = "xlsx", "Excel workbook (.xlsx)"
    TEMPLATE = "template", "Excel workbook from a template (.xlsx)"
    CSV = "csv", "CSV (.csv)"
    JSONL = "jsonl", "JSON Lines (.jsonl)"
    PARQUET = "parquet", "Parquet (.parquet)"

    @property
    def extension(self) -> str:
        """The end of the file's name."""
        return ".xlsx" if self is FileFormat.TEMPLATE else f".{self.value}"


class OnExisting(models.TextChoices):
    """The same choices as `queryexport.sinks.file.OnExisting`."""

    REPLACE = "replace", "It is replaced"
    REFUSE = "refuse", "The run fails"
    NUMBER = "number", "The new file gets a number"
    KEEP = "keep", "It is kept under a number"


class Delimiter(models.TextChoices):
    COMMA = ",", "Comma"
    SEMICOLON = ";", "Semicolon"
    TAB = "\t", "Tab"
    PIPE = "|", "Vertical bar"


class Encoding(models.TextChoices):
    UTF_8 = "utf-8", "UTF-8"
    UTF_8_SIG = "utf-8-sig", "UTF-8 with a mark, for Excel"
    CP1252 = "cp1252", "Windows-1252"
    LATIN_9 = "iso-8859-15", "ISO 8859-15"


class FileOutput(models.Model):
    """The fields that matter when the rows become a file, also one that is attached to a mail."""

    output_format = models.CharField(
        "format",
        max_length=10,
        choices=FileFormat,
        default=FileFormat.XLSX,
        help_text="What the file is. Its name ends in the format's extension.",
    )
    output_filename_template = models.CharField(
        max_length=200,
        default="{query_name}_{date}.xlsx",
        help_text="Tokens: {query_name}, {item}, {connection}, {date}, {date-1} (any number of "
        "days), {date:%Y%m}, {timestamp}, {run_id}. All dates are those of the slot.",
    )
    output_date_format = models.CharField(
        max_length=40,
        default="%Y-%m-%d",
        help_text="How {date} is written (strftime), for example %Y%m%d.",
    )
    output_offset_days = models.SmallIntegerField(
        default=0,
        validators=[MinValueValidator(-3660), MaxValueValidator(3660)],
        help_text="Days added to {date}, for example -1 for yesterday.",
    )
    output_compress_gz = models.BooleanField(
        "compress (gzip)", default=False, help_text="Adds .gz to the file's name."
    )
    output_zip_password = EncryptedTextField(
        "password (zip)",
        blank=True,
        default="",
        help_text="Packs the file into a zip that only this password opens (AES-256), and adds "
        ".zip to its name. ${ENV_VAR} takes it from the worker's environment.",
    )
    output_dir = models.CharField(
        max_length=300,
        blank=True,
        help_text="Folder inside the export folder, for example partner/daily.",
    )
    output_url = models.CharField(
        "store (URL)",
        max_length=500,
        blank=True,
        help_text="Sends the file to a store instead of the export folder, for example "
        "sftp://user:${SFTP_PASSWORD}@host/folder, s3://bucket/folder or "
        "smb://user:${SMB_PASSWORD}@server/share/folder.",
    )
    output_on_existing = models.CharField(
        "if the file exists",
        max_length=10,
        choices=OnExisting,
        default=OnExisting.REPLACE,
        help_text="What happens when there is a file of that name already.",
    )
    output_keep_versions = models.PositiveSmallIntegerField(
        "versions to keep",
        default=5,
        validators=[MinValueValidator(1), MaxValueValidator(99)],
        help_text="How many old files are kept under a number, for example 5.",
    )
    retention_days = models.PositiveSmallIntegerField(
        "delete after (days)",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(36_500)],
        help_text="Files that runs wrote to the export folder are deleted after so many days, for "
        "example 90. Empty: never.",
    )
    retention_files = models.PositiveSmallIntegerField(
        "keep the last (files)",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(10_000)],
        help_text="Only so many of the files that runs wrote are kept, the newest, for example 30. "
        "Empty: all.",
    )

    csv_delimiter = models.CharField(
        "delimiter",
        max_length=1,
        choices=Delimiter,
        default=Delimiter.COMMA,
        help_text="What stands between two values of a CSV file.",
    )
    csv_encoding = models.CharField(
        "encoding",
        max_length=20,
        choices=Encoding,
        default=Encoding.UTF_8,
        help_text="Characters that it does not have are replaced and counted.",
    )
    csv_decimal_comma = models.BooleanField(
        "decimal comma", default=False, help_text="Writes 1,5 and not 1.5."
    )
    csv_formula_safe = models.BooleanField(
        "safe from formulas",
        default=False,
        help_text="Puts an apostrophe before text that a spreadsheet would take for a formula, "
        "for example =1+1, and counts it.",
    )
    json_decimals_as_numbers = models.BooleanField(
        "decimals as numbers",
        default=False,
        help_text="In JSON Lines, decimals are numbers with every digit, and not text.",
    )
    workbook_template = models.ForeignKey(
        WorkbookTemplate,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="The workbook that is filled, for the format that says so.",
    )

    class Meta:
        abstract = True
