"""Turns what an item says about its file into the contents that a sink writes."""

from typing import assert_never

from queryexport.contents import Contents, EncryptedZip, Gzip, Packing
from queryexport.errors import ConfigurationError
from queryexport.formats import Format
from queryexport.formats.csv import Csv, CsvDialect
from queryexport.formats.jsonl import JsonLines
from queryexport.formats.parquet import Parquet
from queryexport.formats.template import TemplateWorkbook
from queryexport.formats.xlsx import Xlsx
from scheduling.models import FileFormat, Output


def contents_of(output: Output) -> Contents:
    """Raises `ConfigurationError` for a template or a password that is not there."""
    return Contents(_format(output), _packing(output))


def _format(output: Output) -> Format:
    zone = output.source.timezone
    file_format = FileFormat(output.output_format)
    match file_format:
        case FileFormat.XLSX:
            return Xlsx(zone)
        case FileFormat.TEMPLATE:
            return _from_template(output)
        case FileFormat.CSV:
            return Csv(zone, _dialect(output))
        case FileFormat.JSONL:
            return JsonLines(zone, decimals_as_numbers=output.json_decimals_as_numbers)
        case FileFormat.PARQUET:
            return Parquet(zone)
        case _:
            assert_never(file_format)


def _from_template(output: Output) -> TemplateWorkbook:
    template = output.workbook_template
    if template is None:
        raise ConfigurationError(
            "The item fills a template, but none is chosen. Choose one in the item."
        )
    return TemplateWorkbook(
        bytes(template.content),
        template.start_name,
        output.source.timezone,
        with_header=template.with_header,
    )


def _dialect(output: Output) -> CsvDialect:
    return CsvDialect(
        delimiter=output.csv_delimiter,
        encoding=output.csv_encoding,
        decimal_comma=output.csv_decimal_comma,
        formula_safe=output.csv_formula_safe,
    )


def _packing(output: Output) -> Packing | None:
    if output.output_zip_password:
        return EncryptedZip(output.output_zip_password.reveal())
    return Gzip() if output.output_compress_gz else None
