"""What is in an operator's workbook, as far as it decides whether it can be a template."""

import re
import zipfile
import zlib
from importlib.util import find_spec
from io import BytesIO

from queryexport.errors import ConfigurationError

MOST_BYTES = 10_000_000
# openpyxl holds a workbook in about fifty times the memory of its XML.
MOST_XML_BYTES = 20_000_000
MOST_UNPACKED_BYTES = 100_000_000
MOST_PARTS = 2_000

OLE_FILE = b"\xd0\xcf\x11\xe0"  # An encrypted workbook is one, and so is one of Excel before 2007.
MACROS = b"macroEnabled"
XML_SUFFIXES = (".xml", ".rels", ".vml")
UNREADABLE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError)

# The parts that openpyxl reads and writes again, and those that nobody misses: previews, printers'
# own settings, the order of calculation, and what SharePoint notes down.
KEPT = re.compile(
    r"\[Content_Types\]\.xml|_rels/\.rels|docProps/.+|customXml/.+"
    r"|xl/(workbook|styles|sharedStrings|calcChain)\.xml|xl/_rels/workbook\.xml\.rels"
    r"|xl/theme/[^/]+\.xml|xl/worksheets/[^/]+\.xml|xl/worksheets/_rels/[^/]+\.rels"
    r"|xl/drawings/[^/]+\.(xml|vml)|xl/drawings/_rels/[^/]+\.rels|xl/comments[^/]*\.xml"
    r"|xl/comments/[^/]+\.xml|xl/media/[^/]+\.(png|jpe?g|gif|bmp|tiff?|svg)|xl/tables/[^/]+\.xml"
    r"|xl/printerSettings/.+|xl/externalLinks/.+",
    re.IGNORECASE,
)
LOST = (
    ("macros", r"xl/vba"),
    ("charts", r"xl/chart"),
    ("pivot tables", r"xl/pivot"),
    ("slicers", r"xl/slicer"),
    ("timelines", r"xl/timeline"),
    ("controls", r"xl/(ctrlProps|activeX)"),
    ("embedded objects", r"xl/embeddings"),
    ("diagrams", r"xl/diagrams"),
    ("threaded comments", r"xl/(threadedComments|persons)"),
    ("queries or connections", r"xl/(connections|queryTables|model)"),
    ("pictures that are drawings (EMF, WMF)", r"xl/media"),
    ("formulas that spill, or data types", r"xl/(metadata|richData)"),
    ("a ribbon of its own", r"customUI"),
    ("digital signatures", r"_xmlsignatures"),
    ("a sensitivity label", r"docMetadata"),
)
LOST_INSIDE = (
    ("shapes", r"xl/drawings/.+\.xml", rb"<(\w+:)?(sp|grpSp|cxnSp|contentPart)[\s>]"),
    ("charts", r"xl/drawings/.+\.xml", rb"<(\w+:)?graphicFrame[\s>]"),
    ("pictures in headers or footers", r"xl/worksheets/.+\.xml", rb"<(\w+:)?legacyDrawingHF\s"),
    ("background pictures", r"xl/worksheets/.+\.xml", rb"<(\w+:)?picture\s"),
    ("controls", r"xl/worksheets/.+\.xml", rb"<(\w+:)?(controls|oleObjects)[\s>]"),
    ("controls", r"xl/drawings/.+\.vml", rb'ObjectType="(?!Note|Pict)'),
)
DOCTYPE = tuple("<!DOCTYPE".encode(encoding) for encoding in ("ascii", "utf-16-le", "utf-16-be"))


def check_package(content: bytes) -> None:
    """Raises `ConfigurationError` for a file that is no workbook, that is dangerous to open, or of
    which something would be missing once it has been filled.
    """
    if len(content) > MOST_BYTES:
        raise ConfigurationError(
            f"The template has {len(content):,} bytes, of {MOST_BYTES:,} that are allowed. "
            "Make its pictures smaller, or remove sheets."
        )
    if content.startswith(OLE_FILE):
        raise ConfigurationError(
            "The template is encrypted, or a workbook of Excel before 2007. Save it as an .xlsx "
            "workbook without a password to open it."
        )
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            _check_size(archive.infolist())
            parts = {name: archive.read(name) for name in archive.namelist() if name[-1:] != "/"}
    except UNREADABLE as error:
        raise ConfigurationError(
            f"The template is no .xlsx workbook, or a damaged one ({error}). Open it in Excel and "
            "save it as an .xlsx workbook."
        ) from error
    _check_kind(parts)
    _check_losses(parts)
    _check_pictures(parts)


def _check_size(members: list[zipfile.ZipInfo]) -> None:
    xml = sum(each.file_size for each in members if each.filename.lower().endswith(XML_SUFFIXES))
    whole = sum(each.file_size for each in members)
    if xml > MOST_XML_BYTES or whole > MOST_UNPACKED_BYTES or len(members) > MOST_PARTS:
        raise ConfigurationError(
            f"The template holds {whole:,} bytes in {len(members):,} parts when it is unpacked, "
            f"{xml:,} of them XML; {MOST_UNPACKED_BYTES:,}, {MOST_PARTS:,} and {MOST_XML_BYTES:,} "
            "are allowed. Remove rows and sheets that the reports do not need."
        )


def _check_kind(parts: dict[str, bytes]) -> None:
    for name in ("[Content_Types].xml", "xl/workbook.xml"):
        if name not in parts:
            raise ConfigurationError(
                f"The template is no .xlsx workbook: it has no part {name}. Open it in Excel and "
                "save it as an .xlsx workbook."
            )
    for name, data in parts.items():
        if any(each in data for each in DOCTYPE) and name.lower().endswith(XML_SUFFIXES):
            raise ConfigurationError(
                f"The part {name} of the template has a document type declaration, which no "
                "workbook has and which can do harm. Save the template anew in Excel."
            )


def _check_losses(parts: dict[str, bytes]) -> None:
    lost = {_kind_of(name) for name in parts if not KEPT.fullmatch(name)}
    if MACROS in parts["[Content_Types].xml"]:
        lost.add("macros")
    for what, where, sign in LOST_INSIDE:
        if any(re.fullmatch(where, name) and re.search(sign, parts[name]) for name in parts):
            lost.add(what)
    if lost:
        raise ConfigurationError(
            f"The template has {', '.join(sorted(lost))}, which would be missing from the filled "
            "workbook. Remove that from the template, or use a plain workbook."
        )


def _kind_of(name: str) -> str:
    found = (what for what, pattern in LOST if re.match(pattern, name, re.IGNORECASE))
    return next(found, f"the part {name!a}")


def _check_pictures(parts: dict[str, bytes]) -> None:
    if any(name.startswith("xl/media/") for name in parts) and find_spec("PIL") is None:
        raise ConfigurationError(
            "The template has pictures, which only Pillow can copy, and Pillow is not installed. "
            "Install it with `pip install pillow` on every worker, or remove the pictures."
        )
