"""A packed file opens with the programs that people have, and holds what the format wrote."""

import errno
import gzip
import io
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import openpyxl
import pytest

from queryexport.contents import Contents, EncryptedZip, Gzip, Packing
from queryexport.errors import ConfigurationError, DeliveryError, QueryError
from queryexport.formats.csv import Csv
from queryexport.formats.jsonl import JsonLines
from queryexport.formats.parquet import Parquet
from queryexport.formats.xlsx import Xlsx
from tests.fakes import result_of
from tests.queryexport.test_formats_csv import ROME

PASSWORD = "correct horse, battery\\staple \"'$&<>~"
ROWS = [[number, f"row {number}"] for number in range(500)]


def packed(packing: Packing, name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with packing.packed(file, name) as inner:
        inner.write(content)
    return file.getvalue()


@pytest.fixture
def seven_zip() -> str:
    """The real 7-Zip."""
    program = shutil.which("7zz") or shutil.which("7z")
    if program:
        return program
    message = "7-Zip is needed: neither 7zz nor 7z is installed; install it with `make services`"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(f"{message} (REQUIRE_SERVICES=1 forbids to go on without it)", pytrace=False)
    pytest.skip(message)


def unpack(program: str, archive: Path, password: str) -> subprocess.CompletedProcess[str]:
    folder = archive.parent / "unpacked"
    return subprocess.run(
        [program, "x", "-y", f"-p{password}", f"-o{folder}", str(archive)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_gzip_holds_the_file_under_its_own_name() -> None:
    data = packed(Gzip(), "rows.csv", b"n\r\n1\r\n")
    assert gzip.decompress(data) == b"n\r\n1\r\n"
    assert b"rows.csv\0" in data
    assert data == packed(Gzip(), "rows.csv", b"n\r\n1\r\n")


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (Contents(Csv(ROME)), "text/csv"),
        (Contents(Csv(ROME), Gzip()), "application/gzip"),
        (Contents(Csv(ROME), EncryptedZip("secret")), "application/zip"),
    ],
)
def test_the_mime_type_is_that_of_the_outermost(contents: Contents, expected: str) -> None:
    assert contents.mime_type == expected


@pytest.mark.parametrize("name", ["rows.csv", "Città €.csv", "a b.tar.xlsx"])
def test_7_zip_opens_it_with_the_password(tmp_path: Path, seven_zip: str, name: str) -> None:
    archive = tmp_path / f"{name}.zip"
    with archive.open("wb") as file:
        written = Contents(Csv(ROME), EncryptedZip(PASSWORD)).write(
            result_of(["n", "text"], ROWS), file, name=archive.name
        )
    answer = unpack(seven_zip, archive, PASSWORD)
    assert answer.returncode == 0, answer.stderr
    [inner] = (tmp_path / "unpacked").iterdir()
    assert (inner.name, written.rows) == (name, len(ROWS))
    assert inner.read_text().splitlines()[-1] == "499,row 499"


@pytest.mark.parametrize("password", ["wrong", PASSWORD.upper(), ""])
def test_7_zip_does_not_open_it_with_another_password(
    tmp_path: Path, seven_zip: str, password: str
) -> None:
    archive = tmp_path / "rows.csv.zip"
    archive.write_bytes(packed(EncryptedZip(PASSWORD), "rows.csv", b"n\r\n1\r\n"))
    answer = unpack(seven_zip, archive, password)
    assert answer.returncode != 0
    assert "Wrong password" in answer.stderr + answer.stdout
    assert not any(path.stat().st_size for path in (tmp_path / "unpacked").glob("*"))


def test_7_zip_says_that_it_is_aes_256(tmp_path: Path, seven_zip: str) -> None:
    archive = tmp_path / "rows.csv.zip"
    archive.write_bytes(packed(EncryptedZip(PASSWORD), "rows.csv", b"x" * 10_000))
    answer = subprocess.run(
        [seven_zip, "l", "-slt", f"-p{PASSWORD}", str(archive)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Encrypted = +" in answer.stdout
    assert re.search(r"Method = AES-256 Deflate", answer.stdout)


def test_a_changed_archive_is_noticed(tmp_path: Path, seven_zip: str) -> None:
    content = secrets.token_bytes(5_000)
    data = bytearray(packed(EncryptedZip(PASSWORD), "rows.bin", content))
    data[2_500] ^= 1
    archive = tmp_path / "rows.bin.zip"
    archive.write_bytes(data)
    assert unpack(seven_zip, archive, PASSWORD).returncode != 0


@pytest.mark.parametrize(
    ("contents_of", "suffix"),
    [(Xlsx, "xlsx"), (Csv, "csv"), (JsonLines, "jsonl"), (Parquet, "parquet")],
)
def test_every_format_can_be_packed(
    tmp_path: Path, seven_zip: str, contents_of: type, suffix: str
) -> None:
    archive = tmp_path / f"rows.{suffix}.zip"
    contents = Contents(contents_of(ROME), EncryptedZip(PASSWORD))
    with archive.open("wb") as file:
        contents.write(result_of(["n", "text"], ROWS), file, name=archive.name)
    assert unpack(seven_zip, archive, PASSWORD).returncode == 0
    unpacked = tmp_path / "unpacked" / f"rows.{suffix}"
    plain = io.BytesIO()
    contents_of(ROME).write(result_of(["n", "text"], ROWS), plain)
    if suffix == "xlsx":  # Holds the time at which it was made.
        assert openpyxl.load_workbook(unpacked).worksheets[0]["B501"].value == "row 499"
    else:
        assert unpacked.read_bytes() == plain.getvalue()


def test_nothing_of_the_content_can_be_read_without_the_password() -> None:
    data = packed(EncryptedZip(PASSWORD), "rows.csv", b"secret content")
    assert b"secret content" not in data
    with (
        zipfile.ZipFile(io.BytesIO(data)) as archive,
        pytest.raises((RuntimeError, OSError, NotImplementedError)),
    ):
        archive.read("rows.csv")


def test_two_archives_of_the_same_file_differ() -> None:
    packing = EncryptedZip(PASSWORD)
    assert packed(packing, "a", b"same") != packed(packing, "a", b"same")


def test_a_broken_stream_leaves_no_archive_and_no_plain_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows() -> Iterator[list[int]]:
        yield [1]
        raise QueryError("The connection was lost.")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = io.BytesIO()
    with pytest.raises(QueryError):
        Contents(Csv(ROME), EncryptedZip(PASSWORD)).write(
            result_of(["n"], rows(), batch_rows=1), file, name="rows.csv.zip"
        )
    assert (file.getvalue(), list(tmp_path.iterdir())) == (b"", [])


def test_a_temporary_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(DeliveryError, match=r"temporary file for rows\.csv in .*gone could"):
        packed(EncryptedZip(PASSWORD), "rows.csv", b"n")


def test_a_full_disk_is_that_of_the_archive_once_it_is_written() -> None:
    contents = Contents(Csv(ROME), EncryptedZip(PASSWORD))
    with pytest.raises(OSError, match="No space left") as caught:
        contents.write(result_of(["n"], [[1]]), FullDisk(), name="rows.csv.zip")  # type: ignore[arg-type]
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("password", ["", "pässwort", "line\nend", "\x00", "x" * 100])
def test_a_password_that_programs_read_differently_is_refused_and_not_shown(password: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EncryptedZip(password)
    assert not password or password not in f"{caught.value} {caught.value!r}"


def test_the_password_is_not_shown() -> None:
    packing = EncryptedZip("hunter2")
    assert "hunter2" not in f"{packing} {packing!r} {Contents(Csv(ROME), packing)!r}"


class FullDisk:
    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")
