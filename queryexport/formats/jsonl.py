"""JSON Lines: one JSON object per line, in the form that Kafka messages have."""

from collections.abc import Sequence
from datetime import tzinfo
from decimal import Decimal
from typing import IO, Any

from queryexport.errors import DeliveryError
from queryexport.formats import Written
from queryexport.formats.texts import counted, refuse_repeated_names, unwritable
from queryexport.rows import Result, Row
from queryexport.values import JsonEncoder, is_finite

NULLED = "NaN or infinity to null"
FRACTIONS = frozenset({float, Decimal})


class JsonLines:
    """One object per row with the column names, in UTF-8, each line ended by a line feed.

    The values have the forms of `JsonEncoder`; a time without a zone is taken to be in `zone`. NaN
    and infinity are null, and counted. Two columns of one name, a value with no form in JSON, and
    text that is not valid Unicode fail the file. Memory is that of one batch.
    """

    mime_type = "application/jsonl"

    def __init__(self, zone: tzinfo, *, decimals_as_numbers: bool = False) -> None:
        self._encoder = JsonEncoder(zone, decimals_as_numbers=decimals_as_numbers)

    def write(self, result: Result, file: IO[bytes]) -> Written:
        names = result.names
        refuse_repeated_names(names, "a JSON object")
        self._refuse_no_unicode(names)
        count = nulled = 0
        for batch in result.batches:
            try:
                lines = self._encoder.encode_rows(names, batch, ending=b"}\n")
            except (TypeError, ValueError) as error:
                raise self._unwritable(names, batch, count + 1) from error
            file.write(b"".join(lines))
            count += len(lines)
            nulled += _not_finite(batch)
        conversions: dict[str, int] = {}
        counted(conversions, NULLED, nulled)
        return Written(count, conversions)

    def _refuse_no_unicode(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise DeliveryError(
                    f"The column name {name!a} is not valid Unicode and cannot be written as JSON. "
                    "Give the column another name with AS."
                ) from error

    def _unwritable(self, names: Sequence[str], batch: Sequence[Row], first: int) -> DeliveryError:
        def form(name: str, value: Any) -> None:
            self._encoder.encode({name: value})

        return unwritable(names, batch, first, form, "JSON Lines")


def _not_finite(rows: Sequence[Row]) -> int:
    """How many numbers of the rows JSON writes as null."""
    return sum(
        sum(isinstance(value, float | Decimal) and not is_finite(value) for value in column)
        for column in zip(*rows, strict=True)
        if not FRACTIONS.isdisjoint(map(type, column))
    )
