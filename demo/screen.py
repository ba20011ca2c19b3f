"""What the demo shows in the terminal: progress while the runs go on, then the history."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from scheduling.models import SchedulingHistoryItem, SharingMode

console = Console()


def watch(pks: Sequence[int], *, within_sec: float) -> list[SchedulingHistoryItem]:
    """Shows the runs until all have ended, or the time is over; returns them as they then are."""
    deadline = time.monotonic() + within_sec
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while True:
            found = SchedulingHistoryItem.objects.filter(pk__in=pks).order_by("pk")
            runs = list(found.select_related("item"))
            live.update(_progress(runs))
            unfinished = any(run.status in SchedulingHistoryItem.UNFINISHED for run in runs)
            if not unfinished or time.monotonic() > deadline:
                return runs
            time.sleep(0.2)


def _progress(runs: Sequence[SchedulingHistoryItem]) -> Table:
    table = Table(box=None)
    for title in ("item", "status", "read", "delivered"):
        table.add_column(title, justify="right" if title in ("read", "delivered") else "left")
    for run in runs:
        table.add_row(
            run.item_name, run.get_status_display(), f"{run.row_count:,}", f"{run.rows_delivered:,}"
        )
    return table


def print_history(runs: Sequence[SchedulingHistoryItem], *, mailbox: Path) -> None:
    table = Table(title="History", title_justify="left")
    for title in ("run", "item", "mode", "status"):
        table.add_column(title)
    for title in ("rows", "delivered", "seconds"):
        table.add_column(title, justify="right")
    for run in runs:
        table.add_row(
            str(run.pk),
            run.item_name,
            run.export_mode,
            run.get_status_display(),
            f"{run.row_count:,}",
            f"{run.rows_delivered:,}",
            f"{run.duration_sec or 0:.2f}",
        )
    console.print(table)
    for run in runs:
        console.print(f"run {run.pk}: {_where(run, mailbox)}", soft_wrap=True, highlight=False)


def _where(run: SchedulingHistoryItem, mailbox: Path) -> str:
    if run.error:
        return run.error
    if run.export_mode == SharingMode.EMAIL:
        newest = max(mailbox.iterdir(), key=lambda path: path.stat().st_mtime)
        return f"{newest}, to {run.place}"
    return run.place


def print_address(address: str, *, user: str, password: str) -> None:
    console.print(f"\nThe admin is at [bold]{address}[/bold]")
    console.print(f"Log in as [bold]{user}[/bold] with the password [bold]{password}[/bold]")
    console.print("Worker and beat are running. Ctrl-C stops everything.")
