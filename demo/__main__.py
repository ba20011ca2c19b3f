"""`make demo`: three exports run at once before your eyes, then the admin, a worker and beat.

Everything is embedded and lives in `var/demo`, whatever `.env` says: SQLite, a folder for Celery,
a folder for mail, and a Kafka broker inside this process. No real installation is touched.
"""

import argparse
import os
import secrets
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "var" / "demo"
RUNS_WITHIN_SEC = 120


def main() -> int:
    arguments = argparse.ArgumentParser(prog="make demo", description=__doc__)
    arguments.add_argument("--once", action="store_true", help="stop after the table")
    once = arguments.parse_args().once
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    _use_embedded_parts()

    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    with ExitStack() as stack:
        try:
            return _demo(stack, once=once)
        except KeyboardInterrupt:
            print("\nStopping.")
            return 0


def _use_embedded_parts() -> None:
    for folder in ("celery", "mail", "exports", "log"):
        (DATA / folder).mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "queryexport.settings",
        "DEBUG": "true",
        "HTTPS": "false",
        "DATA_DIR": str(DATA),
        "EXPORT_ROOT": str(DATA / "exports"),
        "DATABASE_URL": f"sqlite:///{DATA}/queryexport.sqlite3",
        "CELERY_BROKER_URL": "folder://localhost",
        "EMAIL_URL": f"filemail:///{DATA}/mail",
        "LOG_LEVEL": "WARNING",
    }
    import django

    django.setup()


def _demo(stack: ExitStack, *, once: bool) -> int:
    from django.utils import timezone

    from demo import contents, screen, shipments
    from demo.processes import port_near, running
    from kafka_sink.broker import EmbeddedBroker
    from scheduling import runs

    broker = stack.enter_context(EmbeddedBroker(topics={contents.TOPIC: 3}))
    database = DATA / "shipments.sqlite3"
    shipments.build(database, timezone.localdate())
    demo = contents.load(
        database=database,
        bootstrap_servers=broker.bootstrap_servers,
        password=secrets.token_urlsafe(9),
    )
    celery = ("celery", "-A", "queryexport")
    worker = (*celery, "worker", "--concurrency=3", "--without-gossip", "--without-mingle")
    stack.enter_context(running(worker, DATA / "log" / "worker.log"))

    started = [
        runs.run_now(item, trigger=runs.Trigger.COMMAND, user=None).pk for item in demo.items
    ]
    finished = screen.watch(started, within_sec=RUNS_WITHIN_SEC)
    screen.print_history(finished, mailbox=DATA / "mail")
    succeeded = all(run.status == runs.Status.SUCCESS for run in finished)
    if not succeeded:
        print(f"Not every run succeeded. The worker's log: {DATA / 'log' / 'worker.log'}")
    if once:
        return 0 if succeeded else 1

    port = port_near(8000)
    address = f"127.0.0.1:{port}"
    web = ("gunicorn", "--bind", address, "--threads=4", "--no-control-socket", "queryexport.wsgi")
    stack.enter_context(running((*celery, "beat", "--pidfile="), DATA / "log" / "beat.log"))
    server = stack.enter_context(running(web, DATA / "log" / "web.log"))
    screen.print_address(f"http://{address}/", user=demo.user, password=demo.password)
    while server.poll() is None:
        time.sleep(0.5)
    print(f"The web server stopped. Its log: {DATA / 'log' / 'web.log'}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
