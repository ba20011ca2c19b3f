"""Who gets the rows of an item by e-mail, and what the message says."""

from django.db import models


class TooLarge(models.TextChoices):
    FAIL = "fail", "The run fails"
    LINK = "link", "The file goes to the export folder, and the message says where it is"


class NoRows(models.TextChoices):
    SEND = "send", "The message is sent, with a file that has only the header"
    SKIP = "skip", "Nothing is sent, and the run is skipped"
    NOTE = "note", "The message is sent without a file, and says so"


class EmailDelivery(models.Model):
    """The fields that matter when the rows go out as an e-mail."""

    email_to = models.CharField(
        max_length=1000,
        blank=True,
        help_text="Addresses separated by |, for example ops@example.com|night@example.com.",
    )
    email_cc = models.CharField(
        max_length=1000, blank=True, help_text="Addresses separated by |, like To."
    )
    email_bcc = models.CharField(
        max_length=1000, blank=True, help_text="Addresses that the others do not see, like To."
    )
    email_subject = models.CharField(
        max_length=200,
        default="{query_name} {date}",
        blank=True,
        help_text="Takes the tokens of the file name, and {row_count} and {file_name}, for "
        "example Traces of {date-1}: {row_count} rows.",
    )
    email_body = models.TextField(
        blank=True,
        default="Attached: {query_name}, {date}.",
        help_text="Takes the same tokens, and {run_url} for the page of the run.",
    )
    email_body_html = models.TextField(
        "email body (HTML)",
        blank=True,
        help_text="The same as simple HTML, sent beside the text, for example "
        "<p><b>{row_count}</b> rows.</p>. Empty: only text.",
    )
    email_too_large = models.CharField(
        "if the message is too large",
        max_length=10,
        choices=TooLarge,
        default=TooLarge.FAIL,
        help_text="What happens when the mail server takes no message of that size.",
    )
    email_no_rows = models.CharField(
        "if there are no rows",
        max_length=10,
        choices=NoRows,
        default=NoRows.SEND,
        help_text="What happens when the query gives no rows.",
    )

    class Meta:
        abstract = True
