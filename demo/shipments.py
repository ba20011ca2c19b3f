"""The demo's source database: two weeks of parcels and their tracking events, in SQLite."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, time, timedelta
from pathlib import Path
from uuid import uuid4

DAYS = 14
SHIPMENTS_A_DAY = 400
SERVICES = (("Standard", 0.6, 4), ("Express", 0.3, 2), ("Registered", 0.1, 5))
OFFICES = (
    "Milano Lambrate", "Torino Nord", "Bologna Interporto", "Roma Fiumicino", "Napoli Est",
    "Bari Levante", "Palermo Porto", "Verona Quadrante", "Firenze Osmannoro", "Cagliari Elmas",
)  # fmt: skip
CUSTOMERS = (
    "Libreria Aurora",
    "Ottica Bassi",
    "Ferramenta Conti",
    "Enoteca D'Elia",
    "Foto Esposito",
)
JOURNEY = (
    ("ACCETTATO", "Accettazione"),
    ("IN TRANSITO", "Partita dal centro di smistamento"),
    ("IN CONSEGNA", "Affidata al portalettere"),
    ("CONSEGNATO", "Consegna effettuata"),
)
FAILED = ("MANCATA CONSEGNA", "Destinatario assente, avviso lasciato")

SCHEMA = """
CREATE TABLE shipments (
    codice_spedizione TEXT PRIMARY KEY,
    cliente TEXT NOT NULL,
    servizio TEXT NOT NULL,
    origine TEXT NOT NULL,
    destinazione TEXT NOT NULL,
    peso_kg REAL NOT NULL,
    contrassegno_eur REAL,
    data_accettazione TEXT NOT NULL
);
CREATE TABLE tracking_events (
    evento_id INTEGER PRIMARY KEY,
    codice_spedizione TEXT NOT NULL REFERENCES shipments,
    data_evento TEXT NOT NULL,
    ora_evento TEXT NOT NULL,
    stato TEXT NOT NULL,
    ufficio TEXT NOT NULL,
    note TEXT
);
CREATE INDEX tracking_events_by_day ON tracking_events (data_evento);
"""


def build(path: Path, today: date) -> None:
    """Makes the database for the two weeks before `today`, unless it is there already.

    The same day always gives the same rows. A new file replaces the old one in one step.
    """
    if path.exists() and _newest_day(path) == (today - timedelta(days=1)).isoformat():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid4().hex}.part")
    with closing(sqlite3.connect(part)) as database, database:
        database.executescript(SCHEMA)
        chance = random.Random(today.toordinal())
        for day in range(DAYS, 0, -1):
            _add_day(database, chance, today - timedelta(days=day), today)
    part.replace(path)


def _newest_day(path: Path) -> str | None:
    with closing(sqlite3.connect(path)) as database:
        newest: str | None = database.execute(
            "SELECT max(data_evento) FROM tracking_events"
        ).fetchone()[0]
    return newest


def _add_day(
    database: sqlite3.Connection, chance: random.Random, accepted: date, today: date
) -> None:
    for number in range(SHIPMENTS_A_DAY):
        code = f"RR{accepted:%m%d}{number:05d}IT"
        service, _, transit_days = chance.choices(SERVICES, [share for _, share, _ in SERVICES])[0]
        origin, destination = chance.sample(OFFICES, 2)
        database.execute(
            "INSERT INTO shipments VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                code,
                chance.choice(CUSTOMERS),
                service,
                origin,
                destination,
                round(chance.lognormvariate(0.4, 0.8), 3),
                round(chance.uniform(5, 250), 2) if chance.random() < 0.2 else None,
                accepted.isoformat(),
            ),
        )
        database.executemany(
            "INSERT INTO tracking_events (codice_spedizione, data_evento, ora_evento, stato, "
            "ufficio, note) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (code, moment.date().isoformat(), moment.time().isoformat(), state, office, note)
                for moment, state, office, note in _journey(
                    chance, accepted, transit_days, origin, destination
                )
                if moment.date() < today
            ),
        )


def _journey(
    chance: random.Random, accepted: date, transit_days: int, origin: str, destination: str
) -> Iterator[tuple[datetime, str, str, str | None]]:
    moment = datetime.combine(accepted, time(8)) + timedelta(seconds=chance.randrange(36_000))
    for step, (state, note) in enumerate(JOURNEY):
        if state == "CONSEGNATO" and chance.random() < 0.12:
            yield moment, *_at(FAILED, destination)
            moment += timedelta(days=1)
        yield (
            moment,
            *_at(
                (state, note if chance.random() < 0.8 else None),
                destination if step > 1 else origin,
            ),
        )
        hours = transit_days * 24 / len(JOURNEY)
        moment += timedelta(seconds=round(chance.uniform(0.4, 1.3) * hours * 3600))


def _at(state: tuple[str, str | None], office: str) -> tuple[str, str, str | None]:
    return state[0], office, state[1]
