"""What the demo puts into the admin: connections, queries and three scheduled items."""

from dataclasses import dataclass
from pathlib import Path

from django.contrib.auth import get_user_model

from kafka_sink.models import KafkaConnection
from queryexport.models import DatabaseConnection, Query
from scheduling.models import SchedulingItem, SharingMode

TOPIC = "shipments.traces"
EVERY_DAY = [0, 1, 2, 3, 4, 5, 6]
USER = "demo"

TRACES = """\
-- One message for each tracking event of a day.
SELECT e.codice_spedizione, e.evento_id, e.data_evento, e.ora_evento, e.stato, e.ufficio, e.note
FROM tracking_events AS e
WHERE e.data_evento = :day
ORDER BY e.evento_id
"""
DELIVERIES = """\
-- Parcels delivered in the week up to a day, with the hours that they took.
SELECT s.codice_spedizione, s.cliente, s.servizio, s.origine, s.destinazione, s.peso_kg,
       s.contrassegno_eur, s.data_accettazione, e.data_evento AS data_consegna, e.ora_evento,
       round((julianday(e.data_evento || ' ' || e.ora_evento)
              - julianday(s.data_accettazione)) * 24, 1) AS ore
FROM shipments AS s
JOIN tracking_events AS e USING (codice_spedizione)
WHERE e.stato = 'CONSEGNATO' AND e.data_evento BETWEEN :from_day AND :to_day
ORDER BY e.data_evento, e.ora_evento, s.codice_spedizione
"""
FAILED_DELIVERIES = """\
-- Deliveries that failed on a day, for the night shift to call about.
SELECT s.codice_spedizione, s.cliente, s.destinazione, e.ora_evento, e.note
FROM tracking_events AS e
JOIN shipments AS s USING (codice_spedizione)
WHERE e.stato = 'MANCATA CONSEGNA' AND e.data_evento = :day
ORDER BY e.ora_evento
"""


@dataclass(frozen=True)
class Demo:
    items: tuple[SchedulingItem, ...]
    user: str
    password: str


def load(*, database: Path, bootstrap_servers: str, password: str) -> Demo:
    """Creates or refreshes the demo's rows; running it again duplicates nothing."""
    connection, _ = DatabaseConnection.objects.update_or_create(
        name="tracking",
        defaults={
            "environment": "demo",
            "engine": DatabaseConnection.Engine.SQLITE,
            "database": str(database),
            "description": "Parcels and tracking events of the last two weeks.",
        },
    )
    KafkaConnection.objects.update_or_create(
        name="default",
        defaults={
            "bootstrap_servers": bootstrap_servers,
            "description": "The broker inside the demo; it forgets everything when it stops.",
        },
    )
    items = (_traces(connection), _deliveries(connection), _failed_deliveries(connection))
    user, _ = get_user_model().objects.get_or_create(
        username=USER, defaults={"is_staff": True, "is_superuser": True}
    )
    user.set_password(password)
    user.save()
    return Demo(items, USER, password)


def _query(name: str, sql: str, description: str, connection: DatabaseConnection) -> Query:
    defaults = {"sql": sql, "description": description, "default_connection": connection}
    return Query.objects.get_or_create(name=name, defaults=defaults)[0]


def _traces(connection: DatabaseConnection) -> SchedulingItem:
    query = _query("CDG-KAFKA-001--TracceGiornaliere.sql", TRACES, "Traces of a day", connection)
    return SchedulingItem.objects.get_or_create(
        name="Daily shipment traces",
        defaults={
            "query": query,
            "connection": connection,
            "scheduling_mode": SchedulingItem.Mode.CRON,
            "cron_expression": "0 8 * * *",
            "parameters": {"day": "{today-1}"},
            "sharing_mode": SharingMode.KAFKA,
            "kafka_topic": TOPIC,
            "kafka_key_field": "codice_spedizione",
            "kafka_batch_size": 1000,
        },
    )[0]


def _deliveries(connection: DatabaseConnection) -> SchedulingItem:
    query = _query("CDG-RPT-002--Consegne.sql", DELIVERIES, "Deliveries of a week", connection)
    return SchedulingItem.objects.get_or_create(
        name="Weekly delivery report",
        defaults={
            "query": query,
            "connection": connection,
            "days_of_week": [0],
            "hour": 7,
            "minute": 30,
            "parameters": {"from_day": "{today-7}", "to_day": "{today-1}"},
            "output_offset_days": -1,
            "output_dir": "reports",
        },
    )[0]


def _failed_deliveries(connection: DatabaseConnection) -> SchedulingItem:
    query = _query(
        "CDG-OPS-003--MancateConsegne.sql", FAILED_DELIVERIES, "Failed deliveries", connection
    )
    return SchedulingItem.objects.get_or_create(
        name="Failed deliveries to the night shift",
        defaults={
            "query": query,
            "connection": connection,
            "days_of_week": EVERY_DAY,
            "hour": 20,
            "parameters": {"day": "{today-1}"},
            "sharing_mode": SharingMode.EMAIL,
            "email_to": "night-shift@example.com|operations@example.com",
            "email_cc": "customer-care@example.com",
            "email_subject": "Failed deliveries of {date-1}",
            "email_body": "Attached are the failed deliveries of {date-1}.",
        },
    )[0]
