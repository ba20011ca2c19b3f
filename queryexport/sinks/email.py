"""A message with the rows as an attached file, handed to Django's mail backend."""

import smtplib
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from html import escape
from textwrap import shorten
from time import monotonic
from typing import assert_never

from django.conf import settings

from queryexport.contents import Contents
from queryexport.errors import DeliveryError, DeliveryUnknown, ExportError
from queryexport.filenames import Tokens, fill
from queryexport.mail import (
    Answer,
    Attachment,
    FileMessage,
    TooLarge,
    Unanswered,
    check_size,
    connection,
)
from queryexport.patient_smtp import ServerSilent
from queryexport.recipients import check, once
from queryexport.rows import Progress, Receipt, Result
from queryexport.sinks.prepared import Prepared, nameless

MOST_WORDS = 500  # Characters of an answer.
NO_ROWS = "the query gave no rows"


class NoRows(StrEnum):
    """What becomes of a message whose query gave no rows: it goes with a file that has only its
    header, or not at all, or with a note instead of the file.
    """

    SEND = "send"
    SKIP = "skip"
    NOTE = "note"


@dataclass(frozen=True)
class Letter:
    """What a message says, and to whom; `subject`, `text` and `html` are templates for `tokens`.

    `html` is the text once more as HTML, or empty. `message_id`, in angle brackets, is the same in
    every attempt of a run, so that people and servers know a second copy.
    """

    to: Sequence[str]
    cc: Sequence[str]
    subject: str
    text: str
    tokens: Tokens
    bcc: Sequence[str] = ()
    html: str = ""
    message_id: str = ""

    @property
    def recipients(self) -> list[str]:
        """Everybody, once."""
        return once(self.to, self.cc, self.bcc)

    @property
    def headers(self) -> dict[str, str]:
        """RFC 3834, 5: what was sent by a program gets no answer from one."""
        found = {"Auto-Submitted": "auto-generated"}
        if self.message_id:
            found["Message-ID"] = self.message_id
        if self.tokens.run_id is not None:
            found["X-Query-Export-Run"] = str(self.tokens.run_id)
        return found


@dataclass(frozen=True)
class Published:
    """A file that a message only names: its path in the export folder, and what people are told,
    which is the path or an address.
    """

    path: str
    link: str


@dataclass(frozen=True)
class EmailSink:
    """One message with the rows as an attached file, handed to Django's mail backend.

    `rows` in the receipt means accepted by the mail server for at least one recipient, and
    `recipients` says for whom; what the server does next is not known here. It goes to `only` those
    of the letter's recipients, whose names stay in its headers. A message that is too large is
    refused, or goes without the file where `link` publishes it and says where it is.

    Raises `DeliveryError` when nothing was sent, to anybody, and `DeliveryUnknown` when the server
    did not say whether it took the message.
    """

    letter: Letter
    attachment_name: str
    contents: Contents
    only: frozenset[str] | None = None
    link: Callable[[Prepared], Published] | None = None
    no_rows: NoRows = NoRows.SEND

    def deliver(self, result: Result, progress: Progress) -> Receipt:
        started = monotonic()
        check(self.letter.recipients, settings.EMAIL_ALLOWED_DOMAINS)
        with nameless(self.contents, result, name=self.attachment_name) as file:
            progress.check()
            receipt = _Delivery(self, file, progress).receipt()
        progress.arrived(receipt.rows)
        return replace(receipt, duration_sec=monotonic() - started)

    @property
    def recipients(self) -> list[str]:
        return [who for who in self.letter.recipients if self.only is None or who in self.only]

    @property
    def place(self) -> str:
        """The recipients of this delivery, each once, by the header that names them first."""
        left = set(self.recipients)
        words = []
        for kind, given in (
            ("", self.letter.to),
            ("cc ", self.letter.cc),
            ("bcc ", self.letter.bcc),
        ):
            if found := [who for who in once(given) if who in left]:
                words.append(kind + ", ".join(found))
                left.difference_update(found)
        return "; ".join(words)


class _Delivery:
    """The file of one run on its way to the recipients."""

    def __init__(self, sink: EmailSink, file: Prepared, progress: Progress) -> None:
        self._sink = sink
        self._file = file
        self._progress = progress
        self._place = sink.place
        self._path = ""
        self._tokens = replace(
            sink.letter.tokens, row_count=file.written.rows, file_name=sink.attachment_name
        )

    def receipt(self) -> Receipt:
        try:
            return self._with_rows() if self._file.written.rows else self._without_rows()
        except TooLarge as error:
            raise DeliveryError(
                f"The message to {self._place} is too large: {error}. Nothing was sent. Compress "
                "the file, let the query give fewer rows, or let the item send a link instead."
            ) from error

    def _with_rows(self) -> Receipt:
        try:
            refused = self._send(self._message(attached=True))
        except TooLarge:
            if self._sink.link is None:
                raise
            refused = self._send_link(self._sink.link)
        receipt = self._file.receipt(self._place, path=self._path, duration_sec=0.0)
        return replace(receipt, recipients=self._said(refused))

    def _without_rows(self) -> Receipt:
        match self._sink.no_rows:
            case NoRows.SEND:
                return self._with_rows()
            case NoRows.SKIP:
                why = f"No mail was sent: {NO_ROWS}."
                return Receipt(0, f"nobody: {NO_ROWS}", nothing_sent=why)
            case NoRows.NOTE:
                note = f"There is no file: {NO_ROWS}."
                refused = self._send(self._message(note, f"<p>{note}</p>"))
                return Receipt(0, self._place, recipients=self._said(refused))
            case _:
                assert_never(self._sink.no_rows)

    def _send_link(self, publish: Callable[[Prepared], Published]) -> Mapping[str, Answer]:
        self._progress.check()
        published = publish(self._file)
        self._path, link = published.path, published.link
        self._place += f"; the file is at {link}"
        note = f"The file {self._sink.attachment_name} is too large to be attached. It is here:"
        html_note = f"<p>{escape(note)}<br>{_anchor(link)}</p>"
        return self._send(self._message(f"{note}\n{link}", html_note))

    def _said(self, refused: Mapping[str, Answer]) -> dict[str, str]:
        return {
            who: _words(*refused[who]) if who in refused else "" for who in self._sink.recipients
        }

    def _message(
        self, note: str = "", html_note: str = "", *, attached: bool = False
    ) -> FileMessage:
        letter, name = self._sink.letter, self._sink.attachment_name
        file = Attachment(self._file.file, name, self._sink.contents.mime_type)
        text = fill(letter.text, self._tokens)
        message = FileMessage(
            fill(letter.subject, self._tokens),
            f"{text}\n\n{note}\n" if note else text,
            to=once(letter.to),
            cc=once(letter.cc),
            headers=letter.headers,
            attachment=file if attached else None,
            recipients=self._sink.recipients,
            connection=connection(self._progress),
        )
        if letter.html:
            html = _with_paragraph(fill(letter.html, self._tokens, quote=escape), html_note)
            message.attach_alternative(html, "text/html")
        return message

    def _send(self, message: FileMessage) -> Mapping[str, Answer]:
        """Whom the server refused, while it took the message for others."""
        try:
            check_size(message)
            accepted = message.send()
        except (ExportError, TooLarge):
            raise
        except Unanswered as error:
            raise self._unknown(error) from error
        except Exception as error:  # smtplib, socket and ssl each bring their own.
            raise self._refusal(error) from error
        if not accepted:
            raise DeliveryError(
                f"The mail backend sent nothing to {self._place}. Check the recipients."
            )
        return message.refused

    def _refusal(self, error: Exception) -> DeliveryError:
        return DeliveryError(
            f"The mail server did not take the message to {self._place}, and nothing was sent: "
            f"{_reason(error)}. Check the addresses, the attachment's size and EMAIL_URL.",
            retryable=_may_pass(error),
        )

    def _unknown(self, error: Unanswered) -> DeliveryUnknown:
        message_id = self._sink.letter.message_id
        named = f"the Message-ID {message_id}" if message_id else "it"
        unknown = DeliveryUnknown(
            f"It is not known whether the mail server took the message to {self._place}: it had "
            f"all of it, and then {error}. Look for {named} in the server's log or with the "
            "recipients, and run the item again if it did not arrive."
        )
        unknown.receipt = Receipt(0, self._place, unknown=self._file.written.rows)
        return unknown


def _with_paragraph(html: str, paragraph: str) -> str:
    """At its end, yet inside of its body."""
    before, end, after = html.rpartition("</body>")
    return f"{before}{paragraph}{end}{after}" if end else html + paragraph


def _anchor(link: str) -> str:
    text = escape(link)
    is_url = link.startswith(("http://", "https://"))
    return f'<a href="{text}">{text}</a>' if is_url else text


def _reason(error: Exception) -> str:
    """The server's own words where it spoke, else the error's."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            refused = error.recipients.items()
            return "; ".join(f"{who}: {_words(*answer)}" for who, answer in refused)
        case smtplib.SMTPResponseException():
            return _words(error.smtp_code, error.smtp_error)
        case ServerSilent():
            return str(error)
    return f"{type(error).__name__}: {error}"


def _words(code: int, reply: bytes | str) -> str:
    """In one line, however many the server wrote."""
    words = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return shorten(f"{code} {words}", MOST_WORDS, placeholder="…")


def _may_pass(error: Exception) -> bool:
    """4xx may pass, 5xx not (RFC 5321, 4.2.1), and a server may be away only for now."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            return all(400 <= code < 500 for code, _ in error.recipients.values())
        case smtplib.SMTPResponseException():
            return 400 <= error.smtp_code < 500
        case smtplib.SMTPServerDisconnected() | ServerSilent():
            return True
        case smtplib.SMTPException() | ssl.SSLCertVerificationError():
            return False
    return isinstance(error, OSError)
