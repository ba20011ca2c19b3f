"""The demo's database is the same for the same day, and always ends yesterday."""

import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path

from demo import shipments

TODAY = date(2026, 3, 1)


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


def test_the_same_day_gives_the_same_rows(tmp_path: Path) -> None:
    shipments.build(tmp_path / "one", TODAY)
    shipments.build(tmp_path / "two", TODAY)
    assert dump(tmp_path / "one") == dump(tmp_path / "two")


def test_a_file_of_today_is_kept_and_an_older_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "shipments"
    shipments.build(path, TODAY)
    first = path.stat().st_ino
    shipments.build(path, TODAY)
    assert path.stat().st_ino == first
    shipments.build(path, date(2026, 3, 2))
    assert path.stat().st_ino != first
    assert [child.name for child in tmp_path.iterdir()] == ["shipments"]


def test_every_query_of_the_demo_has_rows_for_yesterday(tmp_path: Path) -> None:
    path = tmp_path / "shipments"
    shipments.build(path, TODAY)
    with closing(sqlite3.connect(path)) as database:
        counts = dict(
            database.execute(
                "SELECT stato, count(*) FROM tracking_events WHERE data_evento = '2026-02-28' "
                "GROUP BY stato"
            )
        )
        newest = database.execute("SELECT max(data_evento) FROM tracking_events").fetchone()[0]
    assert newest == "2026-02-28"
    assert set(counts) == {state for state, _ in (*shipments.JOURNEY, shipments.FAILED)}
