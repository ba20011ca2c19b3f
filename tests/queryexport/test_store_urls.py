"""A store's URL is read strictly, and shown without its secrets."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queryexport.contents import Contents
from queryexport.errors import ConfigurationError
from queryexport.formats.xlsx import Xlsx
from queryexport.models import default_timezone
from queryexport.rows import Result
from queryexport.sinks.file import OnExisting
from queryexport.sinks.store import StoreSink
from queryexport.stores import check_url, parse, probe, redacted
from tests.fakes import RecordedProgress, result_of

SFTP = "sftp://anna:${SFTP_PASSWORD}@files.example.com/in/daily"
SECRET = "pa55/w@rd?#:"


def unread() -> Result:
    def rows() -> object:
        pytest.fail("the query ran")
        yield

    return result_of(["n"], rows())


def sink(url: str, **options: object) -> StoreSink:
    return StoreSink(url, "rows.xlsx", Contents(Xlsx(default_timezone())), **options)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (SFTP, "sftp://anna@files.example.com/in/daily"),
        ("sftp://anna:${P}@files.example.com:22/in", "sftp://anna@files.example.com/in"),
        ("sftp://anna:${P}@files.example.com:2222/in/", "sftp://anna@files.example.com:2222/in"),
        ("sftp://anna@[::1]:2222/~/in?key=/keys/a&known_hosts=/k", "sftp://anna@[::1]:2222/~/in"),
        ("sftp://${WHO}:${P}@files.example.com", "sftp://${WHO}@files.example.com"),
        ("sftp://anna:${P}@files.example.com/a%20b/%C3%A9", "sftp://anna@files.example.com/a b/é"),
        ("smb://anna:${P}@server/share/a", "smb://anna@server/share/a"),
        (
            "smb://anna:${P}@server:4450/share?domain=CORP&encrypt=yes",
            "smb://anna@server:4450/share",
        ),
        ("s3://my.bucket", "s3://my.bucket"),
        ("s3://My_Bucket/a/b?region=eu-south-1", "s3://My_Bucket/a/b"),
        ("s3://${K}:${S}@b/a?endpoint_url=https%3A%2F%2Fminio.example.com%3A9000", "s3://b/a"),
        ("s3://AKIA1:${S}@b/a?endpoint_url=http%3A%2F%2F127.0.0.1%3A9000", "s3://b/a"),
    ],
)
def test_a_url_is_shown_without_password_and_options(url: str, shown: str) -> None:
    check_url(url)
    assert redacted(url) == shown


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "only to s3, sftp and smb"),
        ("file:///etc", "only to s3, sftp and smb"),
        ("http://example.com/a", "only to s3, sftp and smb"),
        ("ftp://anna:${P}@example.com/a", "only to s3, sftp and smb"),
        ("simplecache::s3://bucket", "only to s3, sftp and smb"),
        ("sftp://anna:geheim@example.com/a", "write \\${NAME}"),
        ("sftp://anna:geheim${P}@example.com/a", "write \\${NAME}"),
        ("sftp://anna:a@b?geheim@example.com/a", "write \\${NAME}"),
        ("s3://AKIA1:geheim@bucket/a", "write \\${NAME}"),
        ("sftp://anna@example.com/a?key=/k&passphrase=geheim", "write \\${NAME}"),
        ("sftp://anna@example.com/a?key=-----BEGIN%20KEY-----geheim", "write \\${NAME}"),
        (
            "sftp://anna:${SECRET_KEY}@example.com/a",
            "SECRET_KEY, which is a secret",
        ),
        ("sftp://${DATABASE_URL}:${P}@example.com/a", "a secret of this product"),
        ("s3://bucket/a?region=x${EMAIL_URL}", "a secret of this product"),
        ("s3://AKIA1@bucket/a", "without its secret"),
        ("s3://:${S}@bucket/a", "without its secret"),
        ("sftp://example.com/a", "names no user"),
        ("sftp://anna:1?geheim=@example.com/a", "names no user"),
        ("sftp://anna:1/geheim@example.com/a", "names no user"),
        ("s3://AKIA1:1?geheim=@bucket/a", "names no bucket"),
        ("sftp://anna:${P}@/a", "names no host"),
        ("sftp://anna:${P}@${HOST}/a", "names no host"),
        ("s3://bucket:99/a", "names no bucket"),
        ("s3:///a", "names no bucket"),
        ("smb://anna:${P}@server", "names no share"),
        ("smb://anna:${P}@server/share/a:b", "Windows"),
        ("sftp://anna:${P}@example.com:port/a", "host or port"),
        ("sftp://anna:${P}@example.com/a/../b", "“..”"),
        ("sftp://anna:${P}@example.com/a/%2e%2E/b", "“..”"),
        ("sftp://anna:${P}@example.com/a/./b", "“.”"),
        ("sftp://anna:${P}@example.com/a%2Fb", "encoded slash"),
        ("sftp://anna:${P}@example.com/a%5Cb", "backslash"),
        ("sftp://anna:${P}@example.com/a%00b", "control character"),
        ("sftp://anna:${P}@example.com/a%E2%80%AEb", "control character"),
        ("sftp://anna:${P}@example.com/${FOLDER}", "user, password and options"),
        ("sftp://anna:${P}@example.com/a#b", "%23"),
        ("sftp://anna:${P}@example.com/a\nb", "line break"),
        (" sftp://anna:${P}@example.com/a", "blank at an end"),
        ("sftp://anna:${P}@example.com/a?proxy=x", "“proxy” of the sftp URL is not known"),
        ("sftp://anna:${P}@example.com/a?region=x", "“region” of the sftp URL is not known"),
        ("s3://bucket/a?region=x&region=y", "twice"),
        ("s3://bucket/a?region=", "empty"),
        ("s3://bucket/a?addressing=other", "auto, path, virtual"),
        ("smb://anna:${P}@server/share?encrypt=maybe", "yes, no"),
        ("s3://bucket/a?endpoint_url=ftp%3A%2F%2Fa", "address of an S3 server"),
        ("s3://bucket/a?endpoint_url=https%3A%2F%2Fu%3Ageheim%40a", "address of an S3 server"),
        (f"s3://bucket/{'a' * 600}", "longer than 512 bytes"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_a_reason(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        check_url(url)
    assert "geheim" not in caught.value.message
    assert "geheim" not in redacted(url)


@given(st.text().filter(lambda text: "${" not in text))
def test_no_text_typed_as_a_password_is_ever_shown(text: str) -> None:
    url = f"sftp://anna:9f2c41{text}9f2c41@files.example.com/in"
    with pytest.raises(ConfigurationError) as caught:
        check_url(url)
    assert "9f2c41" not in caught.value.message
    assert "9f2c41" not in redacted(url)


def test_a_reference_is_resolved_after_the_url_was_read() -> None:
    address = parse(SFTP).resolved({"SFTP_PASSWORD": SECRET})
    assert (address.host, address.folders) == ("files.example.com", ("in", "daily"))
    assert address.password.stored() == SECRET
    assert SECRET not in repr(address)


def test_an_unset_variable_is_named_before_the_query_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SFTP_PASSWORD", raising=False)
    with pytest.raises(ConfigurationError, match="SFTP_PASSWORD is not set"):
        sink(SFTP).deliver(unread(), RecordedProgress())


@pytest.mark.parametrize(
    ("module", "extra", "url"),
    [
        ("asyncssh", "sftp", SFTP),
        ("smbclient", "smb", "smb://anna:${SFTP_PASSWORD}@server/share"),
        ("botocore.session", "s3", "s3://bucket/a"),
    ],
)
def test_a_missing_extra_is_named_before_the_query_runs(
    module: str, extra: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFTP_PASSWORD", SECRET)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"can't go to {extra} here.*requirements-extras"):
        sink(url).deliver(unread(), RecordedProgress())
    assert [step.name for step in probe(url) if not step.ok] == ["URL"]


def test_older_files_cannot_be_kept_on_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFTP_PASSWORD", SECRET)
    with pytest.raises(ConfigurationError, match="replace, refuse or number"):
        sink(SFTP, on_existing=OnExisting.KEEP).deliver(unread(), RecordedProgress())


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b", "a\u202eb"])
def test_a_file_name_that_is_a_path_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFTP_PASSWORD", SECRET)
    contents = Contents(Xlsx(default_timezone()))
    with pytest.raises(ConfigurationError, match="file name"):
        StoreSink(SFTP, name, contents).deliver(unread(), RecordedProgress())
