"""One place where the rows of an item go: a file, an e-mail or a Kafka topic."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models

from queryexport.filenames import Tokens, file_name, folder_inside
from queryexport.recipients import addresses
from scheduling.models.item_file import FileFormat, FileOutput
from scheduling.models.item_kafka import KafkaDelivery
from scheduling.models.item_mail import EmailDelivery

if TYPE_CHECKING:
    from scheduling.models.item import SchedulingItem


class SharingMode(models.TextChoices):
    FILESYSTEM = "filesystem", "File"
    EMAIL = "email", "E-mail"
    KAFKA = "kafka", "Kafka"


class Output(FileOutput, EmailDelivery, KafkaDelivery):
    """The fields that say where rows go, of an item or of one of its further destinations."""

    sharing_mode = models.CharField(
        max_length=10,
        choices=SharingMode,
        default=SharingMode.FILESYSTEM,
        help_text="Where the rows go: a file, an e-mail, or a Kafka topic.",
    )

    class Meta:
        abstract = True

    @property
    def source(self) -> "SchedulingItem":
        """The item whose rows go there."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """What pages and errors call it among the destinations of its item."""
        raise NotImplementedError

    @property
    def to(self) -> list[str]:
        return addresses(self.email_to)

    @property
    def cc(self) -> list[str]:
        return addresses(self.email_cc)

    @property
    def bcc(self) -> list[str]:
        return addresses(self.email_bcc)

    def tokens(self, slot: datetime, *, run_id: int | None = None) -> Tokens:
        """What `{date}` and its kind stand for in a run of that slot."""
        item = self.source
        local = slot.astimezone(item.timezone)
        return Tokens(
            query_name=item.query.name,
            item=item.name or item.free_name(),
            connection=item.connection.name if item.connection_id else "",
            day=local.date(),
            slot=local,
            date_format=self.output_date_format,
            offset_days=self.output_offset_days,
            run_id=run_id,
        )

    def file_name(self, slot: datetime, *, run_id: int | None = None) -> str:
        """The name of the file with all of its extensions; raises `ConfigurationError`."""
        name = file_name(self.output_filename_template, self.tokens(slot, run_id=run_id))
        return f"{name}{self.packing_suffix}"

    @property
    def packing_suffix(self) -> str:
        if self.output_zip_password:
            return ".zip"
        return ".gz" if self.output_compress_gz else ""

    @property
    def extension(self) -> str:
        """That of the format, without the packing's."""
        return FileFormat(self.output_format).extension

    def folder(self) -> Path:
        return folder_inside(Path(settings.EXPORT_ROOT), self.output_dir)

    def topic(self) -> str:
        """The Kafka topic of a run; nothing for another mode."""
        return self.kafka_topic if self.sharing_mode == SharingMode.KAFKA else ""
