"""A message with the rows as an attached file, handed to Django's mail backend."""

import smtplib
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from queryexport.contents import Contents
from queryexport.errors import DeliveryError, ExportError
from queryexport.mail import FileMessage, connection
from queryexport.rows import Progress, Receipt, Result
from queryexport.sinks.prepared import Prepared, nameless


@dataclass(frozen=True)
class EmailSink:
    """One message with the rows as an attached file, handed to Django's mail backend.

    `rows` in the receipt means accepted by the mail server; what it does next is not known here.
    """

    to: Sequence[str]
    cc: Sequence[str]
    subject: str
    body: str
    attachment_name: str
    contents: Contents

    def deliver(self, result: Result, progress: Progress) -> Receipt:
        started = monotonic()
        with nameless(self.contents, result, name=self.attachment_name) as attachment:
            progress.check()
            self._send(attachment, progress)
        progress.arrived(attachment.written.rows)
        return attachment.receipt(self.recipients, duration_sec=monotonic() - started)

    @property
    def recipients(self) -> str:
        cc = f"; cc {', '.join(self.cc)}" if self.cc else ""
        return f"{', '.join(self.to)}{cc}"

    def _send(self, attachment: Prepared, progress: Progress) -> None:
        message = FileMessage(
            self.subject,
            self.body,
            to=self.to,
            cc=self.cc,
            file=attachment.file,
            attachment_name=self.attachment_name,
            mime_type=self.contents.mime_type,
            connection=connection(progress),
        )
        try:
            accepted = message.send()
        except ExportError:
            raise
        except Exception as error:  # smtplib, socket and ssl each bring their own.
            raise DeliveryError(
                f"The mail server did not take the message to {self.recipients}, and nothing was "
                f"sent: {_refusal(error)}. Check the addresses, the attachment's size and "
                "EMAIL_URL.",
                retryable=isinstance(error, OSError),
            ) from error
        if not accepted:
            raise DeliveryError(
                f"The mail backend sent nothing to {self.recipients}. Check the recipients."
            )


def _refusal(error: Exception) -> str:
    """The server's own words where it spoke, else the error's."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            refused = error.recipients.items()
            return "; ".join(f"{who}: {_answer(*answer)}" for who, answer in refused)
        case smtplib.SMTPResponseException():
            return _answer(error.smtp_code, error.smtp_error)
    return f"{type(error).__name__}: {error}"


def _answer(code: int, reply: bytes | str) -> str:
    words = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return f"{code} {words}"
