"""Spooled rows come back as they went in, or not at all."""

import errno
import os
import pickle
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queryexport.errors import ConfigurationError, DeliveryError, QueryError
from queryexport.rows import Column, Result
from queryexport.spool import FRAME, Spool
from tests.fakes import result_of

KEY = b"k" * 32


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool" / "run-1.rows", KEY)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def rows_of(spool: Spool) -> list[tuple[Any, ...]]:
    return [tuple(row) for batch in spool.result().batches for row in batch]


def test_every_value_comes_back_with_its_type(spool: Spool) -> None:
    row = (
        None, 1, 2**200, 0.1, Decimal("1.10"), True, "text\ud83d", b"\0", date(2026, 1, 1),
        datetime(2026, 1, 1, tzinfo=UTC), time(1, 2, 3), timedelta(days=-1), UUID(int=7),
        {"a": [1, Decimal("2.50")]}, [1, None],
    )  # fmt: skip
    names = [f"c{number}" for number in range(len(row))]
    assert spool.write(result_of(names, [row])) == 1
    [found] = rows_of(spool)
    assert spool.result().names == tuple(names)
    assert found == row
    assert list(map(type, found)) == list(map(type, row))


def test_views_into_memory_come_back_as_bytes(spool: Spool) -> None:
    spool.write(result_of(["b", "n"], [[memoryview(b"ab"), 1], [None, 2]]))
    assert rows_of(spool) == [(b"ab", 1), (None, 2)]


def test_it_can_be_read_any_number_of_times(spool: Spool) -> None:
    spool.write(result_of(["n"], [[number] for number in range(7)]))
    assert rows_of(spool) == rows_of(spool) == [(number,) for number in range(7)]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_no_rows_and_a_few_are_counted(spool: Spool, count: int) -> None:
    assert spool.write(result_of(["n"], [[n] for n in range(count)])) == count
    assert len(rows_of(spool)) == count
    assert spool.result().names == ("n",)


def test_it_is_closed_to_others_and_leaves_nothing_beside_it(spool: Spool) -> None:
    spool.write(result_of(["n"], [[1]]))
    assert spool.path.stat().st_mode & 0o777 == 0o600
    assert spool.path.parent.stat().st_mode & 0o777 == 0o700
    assert names_in(spool.path.parent) == [spool.path.name]
    spool.delete()
    spool.delete()
    assert names_in(spool.path.parent) == []


def test_a_broken_stream_leaves_nothing(spool: Spool) -> None:
    def batches() -> Iterator[Sequence[Sequence[Any]]]:
        yield [[1]]
        raise QueryError("The connection was lost.")

    with pytest.raises(QueryError):
        spool.write(Result((Column("n"),), batches()))
    assert names_in(spool.path.parent) == []


def test_a_full_disk_is_named_and_may_pass(spool: Spool) -> None:
    def batches() -> Iterator[Sequence[Sequence[Any]]]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield []

    with pytest.raises(DeliveryError, match="No space left on device") as caught:
        spool.write(Result((Column("n"),), batches()))
    assert caught.value.retryable and "SPOOL_ROOT" in caught.value.message
    assert names_in(spool.path.parent) == []


def test_a_file_that_is_gone_is_named(spool: Spool) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read.*SPOOL_ROOT"):
        spool.result()


def damaged(content: bytes, kind: str) -> bytes:
    head, frames = FRAME.size, []
    at = 0
    while at < len(content):
        size = FRAME.unpack(content[at : at + head])[0]
        frames.append(content[at : at + head + size])
        at += head + size
    match kind:
        case "one byte":
            return content[:-1] + bytes([content[-1] ^ 1])
        case "cut":
            return content[:-3]
        case "end missing":
            return b"".join(frames[:-1])
        case "rows missing":
            return b"".join([*frames[:1], *frames[2:]])
        case "swapped":
            frames[1], frames[2] = frames[2], frames[1]
            return b"".join(frames)
    return b""


@pytest.mark.parametrize(
    "kind", ["one byte", "cut", "end missing", "rows missing", "swapped", "empty"]
)
def test_a_file_that_was_changed_is_refused(spool: Spool, kind: str) -> None:
    spool.write(result_of(["n"], [[n] for n in range(9)]))
    spool.path.write_bytes(damaged(spool.path.read_bytes(), kind))
    with pytest.raises(ConfigurationError, match="damaged"):
        rows_of(spool)


@pytest.mark.parametrize("other", ["key", "file"])
def test_rows_of_another_key_or_file_are_refused(spool: Spool, tmp_path: Path, other: str) -> None:
    spool.write(result_of(["n"], [[1]]))
    if other == "key":
        stranger = Spool(spool.path, b"x" * 32)
    else:
        stranger = Spool(tmp_path / "run-2.rows", KEY)
        stranger.path.write_bytes(spool.path.read_bytes())
    with pytest.raises(ConfigurationError, match="signature"):
        stranger.result()


class Bomb:
    """Something that does harm when it is unpickled."""

    went_off = False

    def __reduce__(self) -> Any:
        return setattr, (Bomb, "went_off", True)


def test_nothing_is_unpickled_that_we_have_not_signed(spool: Spool) -> None:
    payload = pickle.dumps(Bomb())
    spool.path.parent.mkdir(parents=True)
    spool.path.write_bytes(FRAME.pack(len(payload), b"\0" * 32) + payload)
    with pytest.raises(ConfigurationError):
        spool.result()
    assert not Bomb.went_off


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers() | st.text() | st.binary() | st.decimals(allow_nan=False),
            st.datetimes() | st.timedeltas() | st.uuids(),
        ),
        max_size=20,
    )
)
def test_any_rows_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool") / "run-1.rows", KEY)
    spool.write(result_of(["a", "b"], rows))
    assert rows_of(spool) == rows
