"""A file on a server is the old one or the complete new one, on S3, SFTP and SMB."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import run
from threading import Thread, Timer
from typing import IO, Any
from urllib.parse import quote

import pytest
import smbclient
from django.core.management import CommandError, call_command

from queryexport.contents import Contents
from queryexport.errors import (
    ConfigurationError,
    DeliveryError,
    DeliveryUnknown,
    RunCancelled,
)
from queryexport.formats import Written
from queryexport.rows import Receipt, Result
from queryexport.sinks.file import OnExisting
from queryexport.sinks.store import StoreSink
from queryexport.stores import probe
from tests.fakes import RecordedProgress, result_of
from tests.services import sftp_in_process, tcp_proxy
from tests.services.processes import LOOPBACK, free_port
from tests.services.s3 import S3Server
from tests.services.samba import SHARE, SambaServer
from tests.services.sftp import SftpServer
from tests.services.tcp_proxy import TcpProxy

pytestmark = pytest.mark.services

NAME = "daily.csv"
OLD = b"the file of yesterday"
NEW = b"the file of today"
LARGE = os.urandom(44 << 20)
ROWS = 3
SECRET = "geheim-9f2c"


class Bytes:
    """A format whose file a test can foretell."""

    mime_type = "text/csv"

    def __init__(self, content: bytes) -> None:
        self._content = content

    def write(self, result: Result, file: IO[bytes]) -> Written:
        rows = sum(len(batch) for batch in result.batches)
        file.write(self._content)
        return Written(rows)


@dataclass(frozen=True)
class Destination:
    """A folder on a server, and what somebody sees who looks there without our code."""

    kind: str
    port: int
    # The URL of the folder by a port, which may be that of a proxy.
    url_by: Callable[[int], str]
    files: Callable[[], dict[str, bytes]]
    put: Callable[[str, bytes], None]
    nothing_unfinished: Callable[[], bool]

    @property
    def url(self) -> str:
        return self.url_by(self.port)


@pytest.fixture(params=["sftp", "smb", "s3"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    match request.param:
        case "sftp":
            return sftp_destination(request.getfixturevalue("sftp_server"), tmp_path)
        case "smb":
            return smb_destination(request.getfixturevalue("samba"), request)
        case _:
            return s3_destination(request.getfixturevalue("s3_server"), request)


def sftp_destination(server: SftpServer, folder: Path) -> Destination:
    def url(port: int) -> str:
        server.trust(port)
        return server.url(folder, port=port)

    return folder_destination("sftp", server.port, url, folder)


def smb_destination(server: SambaServer, request: pytest.FixtureRequest) -> Destination:
    request.getfixturevalue("monkeypatch").setenv("SMB_PASSWORD", server.password)
    folder = server.new_folder()
    return folder_destination(
        "smb", server.port, lambda port: server.url(f"/{folder.name}", port=port), folder
    )


def folder_destination(
    kind: str, port: int, url: Callable[[int], str], folder: Path
) -> Destination:
    return Destination(
        kind,
        port,
        url,
        files=lambda: {path.name: path.read_bytes() for path in folder.iterdir()},
        put=lambda name, content: (folder / name).write_bytes(content) and None,
        nothing_unfinished=lambda: True,  # It would be a file, and seen among them.
    )


def s3_destination(server: S3Server, request: pytest.FixtureRequest) -> Destination:
    request.getfixturevalue("monkeypatch").setenv("S3_SECRET", SECRET)
    bucket = server.bucket()

    def files() -> dict[str, bytes]:
        keys = server.keys(bucket)
        return {key.removeprefix("reports/"): server.content(bucket, key) for key in keys}

    def put(name: str, content: bytes) -> None:
        server.client.put_object(Bucket=bucket, Key=f"reports/{name}", Body=content)

    return Destination(
        "s3",
        server.port,
        lambda port: server.url(bucket, port=port),
        files,
        put,
        lambda: server.unfinished(bucket) == 0,
    )


@dataclass(frozen=True)
class Link:
    """A proxy before a server, the URL of the folder through it, and what ends the proxy."""

    proxy: TcpProxy
    url: str
    take_down: Callable[[], None]
    timers: list[Timer] = field(default_factory=list)

    def swallow_for(self, seconds: float) -> None:
        """The server hears everything meanwhile; then all connections are cut."""
        self.proxy.swallow_answers()
        self.timers.append(Timer(seconds, self.proxy.resume))
        self.timers[-1].start()


@pytest.fixture
def link(destination: Destination) -> Iterator[Link]:
    port = free_port()
    with ExitStack() as stack:
        proxy = stack.enter_context(tcp_proxy.running(port, destination.port))
        link = Link(proxy, destination.url_by(port), stack.close)
        yield link
        for timer in link.timers:
            timer.cancel()
            timer.join()


class At(RecordedProgress):
    """A progress that does something at the n-th sign of life, or right before publishing."""

    def __init__(
        self, act: Callable[[], object], *, sign: int = 0, before_publishing: bool = False
    ) -> None:
        super().__init__()
        self._act = act
        self._sign = sign
        self._before_publishing = before_publishing

    def delivered(self, rows: int) -> None:
        super().delivered(rows)
        if len(self.calls) == self._sign:
            self._act()

    def check(self) -> None:
        super().check()
        # The first is before the sending.
        if self.checks == 2 and self._before_publishing:
            self._act()


# So many signs of life later, a part of a large file has been sent, and the rest has not.
IN_THE_MIDDLE = {"sftp": 40, "smb": 40, "s3": 5}


def deliver(
    url: str,
    content: bytes = NEW,
    *,
    progress: RecordedProgress | None = None,
    on_existing: OnExisting = OnExisting.REPLACE,
    timeout_sec: float = 20,
) -> Receipt:
    sink = StoreSink(
        url, NAME, Contents(Bytes(content)), on_existing=on_existing, timeout_sec=timeout_sec
    )
    rows = result_of(["n"], [[number] for number in range(ROWS)])
    return sink.deliver(rows, progress or RecordedProgress())


def unread() -> Result:
    """A result whose query must not run."""

    def rows() -> Iterator[list[int]]:
        pytest.fail("the query ran")
        yield [0]

    return result_of(["n"], rows())


def raising(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def our_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name == "store" or name.startswith("msg_worker")]


# What arrives --------------------------------------------------------------------------------


def test_the_new_file_replaces_the_old_one(destination: Destination) -> None:
    destination.put(NAME, OLD)
    receipt = deliver(destination.url)
    assert destination.files() == {NAME: NEW}
    assert (receipt.rows, receipt.size_bytes) == (ROWS, len(NEW))
    assert receipt.sha256 == sha256(NEW).hexdigest()


def test_the_place_is_the_url_of_the_file_without_secrets(destination: Destination) -> None:
    place = deliver(destination.url).place
    assert place.startswith(f"{destination.kind}://")
    assert place.endswith(f"/{NAME}")
    assert "${" not in place and "?" not in place and SECRET not in place


@pytest.mark.parametrize("content", [b"", NEW, LARGE], ids=["empty", "small", "large"])
def test_the_file_arrives_as_it_is(destination: Destination, content: bytes) -> None:
    deliver(destination.url, content)
    assert destination.files() == {NAME: content}
    assert destination.nothing_unfinished()


def test_the_run_shows_life_while_a_large_file_is_sent(destination: Destination) -> None:
    progress = RecordedProgress()
    deliver(destination.url, LARGE, progress=progress)
    assert len(progress.calls) > IN_THE_MIDDLE[destination.kind]
    assert progress.reported == ROWS


def test_an_existing_file_is_refused_before_the_query_runs(destination: Destination) -> None:
    deliver(destination.url, OLD, on_existing=OnExisting.REFUSE)
    sink = StoreSink(destination.url, NAME, Contents(Bytes(NEW)), on_existing=OnExisting.REFUSE)
    with pytest.raises(DeliveryError, match="exists already") as caught:
        sink.deliver(unread(), RecordedProgress())
    assert not caught.value.retryable
    assert destination.files() == {NAME: OLD}


@pytest.mark.parametrize("content", [NEW, LARGE], ids=["small", "large"])
def test_a_file_that_comes_up_while_ours_is_sent_is_not_replaced(
    destination: Destination, content: bytes
) -> None:
    progress = At(lambda: destination.put(NAME, OLD), before_publishing=True)
    with pytest.raises(DeliveryError, match="exists already"):
        deliver(destination.url, content, progress=progress, on_existing=OnExisting.REFUSE)
    assert destination.files() == {NAME: OLD}
    assert destination.nothing_unfinished()


def test_files_are_numbered(destination: Destination) -> None:
    places = [deliver(destination.url, on_existing=OnExisting.NUMBER).place for _ in range(3)]
    names = [NAME, "daily_2.csv", "daily_3.csv"]
    assert [place.rpartition("/")[2] for place in places] == names
    assert sorted(destination.files()) == sorted(names)


def test_two_deliveries_at_once_never_take_one_number(destination: Destination) -> None:
    url, contents = destination.url, [f"file {number}".encode() for number in range(4)]
    threads = [
        Thread(target=deliver, args=(url, each), kwargs={"on_existing": OnExisting.NUMBER})
        for each in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(destination.files().values()) == contents


def test_nothing_of_a_delivery_stays_in_the_process(destination: Destination) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    deliver(destination.url)
    assert our_threads() == []
    assert len(set(Path("/proc/self/fd").iterdir()) - before) <= 1  # A file of a cache.


# What fails ----------------------------------------------------------------------------------


def test_a_run_cancelled_while_sending_leaves_the_old_file(destination: Destination) -> None:
    destination.put(NAME, OLD)
    reason = RunCancelled("Anna cancelled the run.")
    progress = At(raising(reason), sign=IN_THE_MIDDLE[destination.kind])
    with pytest.raises(RunCancelled) as caught:
        deliver(destination.url, LARGE, progress=progress)
    assert caught.value is reason
    assert destination.files() == {NAME: OLD}
    assert destination.nothing_unfinished()


def test_a_run_ended_right_before_publishing_leaves_the_old_file(destination: Destination) -> None:
    destination.put(NAME, OLD)
    progress = At(raising(RunCancelled("Anna cancelled the run.")), before_publishing=True)
    with pytest.raises(RunCancelled):
        deliver(destination.url, LARGE, progress=progress)
    assert destination.files() == {NAME: OLD}
    assert destination.nothing_unfinished()


def test_a_connection_cut_while_sending_leaves_the_old_file(
    destination: Destination, link: Link
) -> None:
    destination.put(NAME, OLD)
    progress = At(link.proxy.reset, sign=IN_THE_MIDDLE[destination.kind])
    if destination.kind == "s3":  # There only the part is lost that was under way.
        deliver(link.url, LARGE, progress=progress)
        assert destination.files() == {NAME: LARGE}
        return
    with pytest.raises(DeliveryError, match="Nothing was published") as caught:
        deliver(link.url, LARGE, progress=progress)
    assert caught.value.retryable
    assert destination.files() == {NAME: OLD}


def test_a_server_gone_while_sending_leaves_the_old_file_and_says_what_else(
    destination: Destination, link: Link
) -> None:
    destination.put(NAME, OLD)
    progress = At(link.take_down, sign=IN_THE_MIDDLE[destination.kind])
    with pytest.raises(DeliveryError, match="could not be removed") as caught:
        deliver(link.url, LARGE, progress=progress)
    assert caught.value.retryable
    files = destination.files()
    assert files.pop(NAME) == OLD
    assert all(name in caught.value.message for name in files)
    assert our_threads() == []


@pytest.mark.slow
def test_a_silent_server_holds_a_run_for_its_timeout_and_not_for_ever(
    destination: Destination, link: Link
) -> None:
    destination.put(NAME, OLD)
    progress = At(link.proxy.swallow_answers, sign=IN_THE_MIDDLE[destination.kind])
    started = time.monotonic()
    with pytest.raises(DeliveryError) as caught:
        deliver(link.url, LARGE, progress=progress, timeout_sec=2)
    assert caught.value.retryable
    assert time.monotonic() - started < 30
    assert destination.files()[NAME] == OLD


@pytest.mark.slow
def test_a_run_is_cancelled_within_seconds_while_a_server_is_silent(
    destination: Destination, link: Link
) -> None:
    def act() -> None:
        link.proxy.swallow_answers()
        Timer(1, progress.cancel).start()

    class Cancelled(At):
        reason: Exception | None = None

        def cancel(self) -> None:
            self.reason = RunCancelled("Anna cancelled the run.")

        def delivered(self, rows: int) -> None:
            if self.reason:
                raise self.reason
            super().delivered(rows)

    progress = Cancelled(act, sign=IN_THE_MIDDLE[destination.kind])
    started = time.monotonic()
    with pytest.raises(RunCancelled):
        deliver(link.url, LARGE, progress=progress, timeout_sec=60)
    assert time.monotonic() - started < 25
    assert NAME not in destination.files()


def test_a_silent_server_is_given_up_when_connecting(destination: Destination, link: Link) -> None:
    link.proxy.swallow_answers()
    # With S3, the first request is the one that publishes.
    words = "not known whether" if destination.kind == "s3" else "could not be reached"
    with pytest.raises(DeliveryError, match=words) as caught:
        deliver(link.url, timeout_sec=1)
    assert caught.value.retryable


def test_a_server_that_does_not_run_is_named(destination: Destination) -> None:
    with pytest.raises(DeliveryError, match="could not be reached") as caught:
        deliver(destination.url_by(free_port()))
    assert caught.value.retryable


@pytest.mark.slow
@pytest.mark.parametrize("on_existing", [OnExisting.REPLACE, OnExisting.REFUSE])
@pytest.mark.parametrize("content", [NEW, LARGE], ids=["small", "large"])
def test_a_file_whose_last_answer_was_lost_is_found(
    destination: Destination, link: Link, content: bytes, on_existing: OnExisting
) -> None:
    # A client of S3 waits a second for the server's leave before it sends the content.
    seconds = 3 if destination.kind == "s3" else 1
    progress = At(lambda: link.swallow_for(seconds), before_publishing=True)
    if destination.kind == "smb":
        # It opens the file before it renames it, and knows that it never asked for the renaming.
        with pytest.raises(DeliveryError, match="Nothing was published"):
            deliver(link.url, content, progress=progress, on_existing=on_existing)
        assert destination.files() == {}
        return
    receipt = deliver(link.url, content, progress=progress, on_existing=on_existing)
    assert receipt.rows == ROWS
    assert destination.files() == {NAME: content}


def test_what_became_of_the_file_is_unknown_if_the_server_stays_silent(
    destination: Destination, link: Link
) -> None:
    progress = At(link.proxy.swallow_answers, before_publishing=True)
    with pytest.raises(DeliveryUnknown, match="not known whether") as caught:
        deliver(link.url, progress=progress, on_existing=OnExisting.REFUSE, timeout_sec=1)
    assert not caught.value.retryable
    assert caught.value.receipt
    assert (caught.value.receipt.rows, caught.value.receipt.unknown) == (0, ROWS)


def test_an_unknown_replacement_is_tried_again(destination: Destination, link: Link) -> None:
    progress = At(link.proxy.swallow_answers, before_publishing=True)
    with pytest.raises(DeliveryError, match="not known whether") as caught:
        deliver(link.url, progress=progress, timeout_sec=1)
    assert caught.value.retryable


class SlowToPublish(BaseHTTPRequestHandler):
    """An S3 server that is silent about what it was sent until it has lost its client."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(2)
        self.close_connection = True

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_an_object_that_may_still_come_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_SECRET", SECRET)
    with ThreadingHTTPServer((LOOPBACK, 0), SlowToPublish) as server:
        Thread(target=server.serve_forever).start()
        endpoint = quote(f"http://{LOOPBACK}:{server.server_port}", safe="")
        url = f"s3://AKIATEST:${{S3_SECRET}}@bucket?region=eu-south-1&endpoint_url={endpoint}"
        with pytest.raises(DeliveryUnknown, match="it was not there yet"):
            deliver(url, on_existing=OnExisting.NUMBER, timeout_sec=1)
        server.shutdown()


# Who may -------------------------------------------------------------------------------------


def test_a_wrong_password_is_told_and_not_tried_again(
    samba: SambaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMB_PASSWORD", SECRET)
    with pytest.raises(DeliveryError, match="refused the log-in") as caught:
        deliver(samba.url())
    assert not caught.value.retryable
    assert SECRET not in caught.value.message


def test_a_wrong_sftp_password_is_told_and_not_tried_again(
    plain_sftp: SftpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFTP_PASSWORD", SECRET)
    with pytest.raises(DeliveryError, match="refused the log-in") as caught:
        deliver(by_password(plain_sftp))
    assert not caught.value.retryable
    assert SECRET not in caught.value.message


def test_a_key_that_the_server_does_not_take_is_told(
    sftp_server: SftpServer, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    with pytest.raises(DeliveryError, match="refused the log-in"):
        deliver(replace(sftp_server, key=other).url(tmp_path))


def test_a_key_that_cannot_be_read_is_told_without_its_text(
    sftp_server: SftpServer, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_text(f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n")
    with pytest.raises(ConfigurationError, match="private key") as caught:
        deliver(replace(sftp_server, key=broken).url(tmp_path))
    assert SECRET not in str(caught.value)


def test_a_key_may_come_from_the_environment(
    sftp_server: SftpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFTP_KEY", sftp_server.key.read_text())
    folder = tmp_path / "in"
    folder.mkdir()
    deliver(sftp_server.url(folder).replace(quote(str(sftp_server.key)), "${SFTP_KEY}"))
    assert (folder / NAME).read_bytes() == NEW


def test_an_unknown_host_key_is_refused(sftp_server: SftpServer, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("")
    with pytest.raises(ConfigurationError, match="not the one that is known") as caught:
        deliver(replace(sftp_server, known_hosts=known_hosts).url(tmp_path))
    assert str(known_hosts) in caught.value.message


def test_a_changed_host_key_is_refused(sftp_server: SftpServer, tmp_path: Path) -> None:
    other = tmp_path / "other"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    known_hosts = tmp_path / "known_hosts"
    key = Path(f"{other}.pub").read_text()
    known_hosts.write_text(f"[{LOOPBACK}]:{sftp_server.port} {key}")
    with pytest.raises(ConfigurationError, match="not the one that is known"):
        deliver(replace(sftp_server, known_hosts=known_hosts).url(tmp_path))


def test_a_missing_known_hosts_file_is_named(sftp_server: SftpServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="are checked against"):
        deliver(replace(sftp_server, known_hosts=tmp_path / "none").url(tmp_path))


def test_a_missing_bucket_is_named(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_SECRET", SECRET)
    with pytest.raises(DeliveryError, match="bucket no-such-bucket does not exist") as caught:
        deliver(s3_server.url("no-such-bucket"))
    assert not caught.value.retryable


@pytest.mark.parametrize("large", [False, True])
def test_an_access_key_without_rights_is_told(
    s3_server: S3Server, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_SECRET", SECRET)
    bucket = s3_server.bucket()
    with s3_server.asking_for_rights(), pytest.raises(DeliveryError) as caught:
        deliver(s3_server.url(bucket), LARGE if large else NEW)
    assert "access key" in caught.value.message
    assert not caught.value.retryable
    assert SECRET not in caught.value.message
    assert s3_server.keys(bucket) == []


def test_a_worker_without_any_access_key_is_told(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    url = s3_server.url("bucket").replace("AKIATEST:${S3_SECRET}@", "")
    with pytest.raises(ConfigurationError, match="no access key"):
        deliver(url)


def test_a_missing_folder_is_named(
    sftp_server: SftpServer, samba: SambaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMB_PASSWORD", samba.password)
    for url in (sftp_server.url(Path("/no/such/folder")), samba.url("/no/such/folder")):
        with pytest.raises(DeliveryError, match="/no/such/folder does not exist") as caught:
            deliver(url)
        assert not caught.value.retryable


def test_a_missing_share_is_named(samba: SambaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMB_PASSWORD", samba.password)
    with pytest.raises(DeliveryError, match="nothing does not exist") as caught:
        deliver(samba.url().replace(f"/{SHARE}", "/nothing"))
    assert not caught.value.retryable


def test_a_share_that_may_only_be_read_is_named(
    samba: SambaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMB_PASSWORD", samba.password)
    with pytest.raises(DeliveryError, match="may not write") as caught:
        deliver(samba.url().replace(f"/{SHARE}", "/locked"))
    assert not caught.value.retryable


# What a server can't -------------------------------------------------------------------------


def by_password(server: SftpServer) -> str:
    known_hosts = quote(str(server.known_hosts))
    return (
        f"sftp://{server.user}:${{SFTP_PASSWORD}}@{server.host}:{server.port}{server.folder}"
        f"?known_hosts={known_hosts}"
    )


@pytest.fixture
def plain_sftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SftpServer]:
    """A server without OpenSSH's extensions, which takes a password."""
    with sftp_in_process.running(tmp_path, sftp_in_process.PlainFiles) as server:
        monkeypatch.setenv("SFTP_PASSWORD", server.password)
        yield server


def test_without_an_atomic_rename_new_names_work(plain_sftp: SftpServer) -> None:
    deliver(by_password(plain_sftp))
    deliver(by_password(plain_sftp), OLD, on_existing=OnExisting.NUMBER)
    found = {path.name: path.read_bytes() for path in plain_sftp.folder.iterdir()}
    assert found == {NAME: NEW, "daily_2.csv": OLD}


def test_without_an_atomic_rename_nothing_is_replaced(plain_sftp: SftpServer) -> None:
    (plain_sftp.folder / NAME).write_bytes(OLD)
    with pytest.raises(ConfigurationError, match="cannot replace a file in one step") as caught:
        deliver(by_password(plain_sftp))
    assert not caught.value.retryable
    found = {path.name: path.read_bytes() for path in plain_sftp.folder.iterdir()}
    assert found == {NAME: OLD}


def test_a_refused_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sftp_in_process.running(tmp_path, sftp_in_process.Refusing) as server:
        monkeypatch.setenv("SFTP_PASSWORD", server.password)
        (server.folder / NAME).write_bytes(OLD)
        with pytest.raises(DeliveryError, match="may not write") as caught:
            deliver(by_password(server))
        found = {path.name: path.read_bytes() for path in server.folder.iterdir()}
    assert not caught.value.retryable
    assert found == {NAME: OLD}


def test_a_file_of_which_the_server_lost_a_part_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sftp_in_process.running(tmp_path, sftp_in_process.Losing) as server:
        monkeypatch.setenv("SFTP_PASSWORD", server.password)
        (server.folder / NAME).write_bytes(OLD)
        with pytest.raises(DeliveryError, match=f"{len(LARGE)} were sent"):
            deliver(by_password(server), LARGE)
        found = {path.name: path.read_bytes() for path in server.folder.iterdir()}
    assert found == {NAME: OLD}


def test_a_file_open_on_a_share_is_not_replaced(
    samba: SambaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMB_PASSWORD", samba.password)
    folder = samba.new_folder()
    (folder / NAME).write_bytes(OLD)
    words = "open in another program"
    with opened_by_somebody(samba, folder), pytest.raises(DeliveryError, match=words) as caught:
        deliver(samba.url(f"/{folder.name}"))
    assert caught.value.retryable
    assert [path.name for path in folder.iterdir()] == [NAME]
    assert (folder / NAME).read_bytes() == OLD


@contextmanager
def opened_by_somebody(samba: SambaServer, folder: Path) -> Iterator[None]:
    """As Excel does it, which lets nobody else touch the file."""
    connections: dict[str, Any] = {}
    path = rf"\\{samba.host}\{SHARE}\{folder.name}\{NAME}"
    with smbclient.open_file(
        path,
        "rb",
        buffering=0,
        username=samba.user,
        password=samba.password,
        port=samba.port,
        connection_cache=connections,
    ):
        yield
    smbclient.reset_connection_cache(connection_cache=connections)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mounts a file system of 300 KiB there."""
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield
    finally:
        run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["sftp", "smb"])
def test_a_full_disk_on_the_server_leaves_the_old_file(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "sftp":
        folder = tmp_path / "small"
        folder.mkdir()
        url = request.getfixturevalue("sftp_server").url(folder)
    else:
        samba = request.getfixturevalue("samba")
        request.getfixturevalue("monkeypatch").setenv("SMB_PASSWORD", samba.password)
        folder = samba.new_folder()
        url = samba.url(f"/{folder.name}")
    with small_disk(folder):
        (folder / NAME).write_bytes(OLD)
        with pytest.raises(DeliveryError, match="free space") as caught:
            deliver(url, LARGE)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {NAME: OLD}
    assert caught.value.retryable


# Litter --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sftp", "smb"])
def test_unfinished_files_go_two_days_later(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "sftp":
        folder = tmp_path / "in"
        folder.mkdir()
        url = request.getfixturevalue("sftp_server").url(folder)
    else:
        samba = request.getfixturevalue("samba")
        request.getfixturevalue("monkeypatch").setenv("SMB_PASSWORD", samba.password)
        folder = samba.new_folder()
        url = samba.url(f"/{folder.name}")
    names = [f".query-export-{letter * 32}.part" for letter in "ab"]
    for name, days in zip(names, (3, 1), strict=True):
        (folder / name).write_bytes(b"half")
        moment = time.time() - days * 24 * 60 * 60
        os.utime(folder / name, (moment, moment))
    (folder / "other.part").write_bytes(b"of somebody else")
    os.utime(folder / "other.part", (0, 0))
    deliver(url)
    assert sorted(path.name for path in folder.iterdir()) == [names[1], NAME, "other.part"]


# The connection test -------------------------------------------------------------------------


def test_a_store_that_works_passes_every_step(destination: Destination) -> None:
    steps = probe(destination.url)
    assert [(step.name, step.ok) for step in steps] == [
        ("resolve", True),
        ("connect", True),
        ("log in", True),
        ("write", True),
    ]
    assert destination.files() == {}
    assert our_threads() == []


def test_the_first_step_that_fails_is_the_last(destination: Destination) -> None:
    steps = probe(destination.url_by(free_port()))
    assert [(step.name, step.ok) for step in steps] == [("resolve", True), ("connect", False)]
    assert "could not be reached" in steps[-1].words


def test_a_name_that_is_not_known_fails_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMB_PASSWORD", SECRET)
    (step,) = probe("smb://anna:${SMB_PASSWORD}@no-such-host.invalid/share")
    assert (step.name, step.ok) == ("resolve", False)
    assert "no-such-host.invalid" in step.words


def test_a_wrong_password_fails_the_third_step(
    samba: SambaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMB_PASSWORD", SECRET)
    steps = probe(samba.url())
    assert (steps[-1].name, steps[-1].ok) == ("log in", False)
    assert SECRET not in str(steps)


def test_a_folder_that_may_only_be_read_fails_the_last_step(
    samba: SambaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMB_PASSWORD", samba.password)
    steps = probe(samba.url().replace(f"/{SHARE}", "/locked"))
    assert (steps[-1].name, steps[-1].ok) == ("write", False)


def test_a_silent_server_fails_in_time(destination: Destination, link: Link) -> None:
    link.proxy.swallow_answers()
    started = time.monotonic()
    steps = probe(link.url, limit_sec=1)
    assert not steps[-1].ok
    assert time.monotonic() - started < 10


def test_the_command_prints_each_step(
    destination: Destination, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("test_store", destination.url)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:14] for line in lines] == [
        "ok     resolve", "ok     connect", "ok     log in:", "ok     write: ",
    ]  # fmt: skip


def test_the_command_fails_with_the_step(
    destination: Destination, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandError, match="“connect” failed"):
        call_command("test_store", destination.url_by(free_port()))
    assert "FAILED connect: " in capsys.readouterr().out
