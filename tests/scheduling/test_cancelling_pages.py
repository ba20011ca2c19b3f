"""Cancelling from the admin and from the command line."""

from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from scheduling import runs
from scheduling.models import SchedulingHistoryItem
from tests.factories import MakeItem
from tests.scheduling.conftest import LogIn

pytestmark = pytest.mark.django_db

HISTORY = "admin:scheduling_schedulinghistoryitem"
SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
MAY_LOOK = ("view_schedulinghistoryitem",)
MAY_CANCEL = (*MAY_LOOK, "cancel_schedulinghistoryitem")


@pytest.fixture
def run(make_item: MakeItem) -> SchedulingHistoryItem:
    queued = runs.queue(make_item(), SLOT, trigger=runs.Trigger.SCHEDULE)
    assert queued
    return queued


def page(run: SchedulingHistoryItem, name: str = "cancel") -> str:
    return reverse(f"{HISTORY}_{name}", args=[run.pk])


def test_the_page_asks_and_changes_nothing(run: SchedulingHistoryItem, log_in: LogIn) -> None:
    client = log_in(*MAY_CANCEL)
    assert page(run) in client.get(page(run, "change")).content.decode()
    asked = client.get(page(run)).content.decode()
    assert "has not begun, and will not" in asked and f"Cancel run {run.pk}" in asked
    run.refresh_from_db()
    assert run.status == "queued"


def test_a_waiting_run_is_cancelled_at_once(run: SchedulingHistoryItem, log_in: LogIn) -> None:
    response = log_in(*MAY_CANCEL).post(page(run), follow=True)
    run.refresh_from_db()
    assert (run.status, run.error) == ("cancelled", "Cancelled by staff before it began.")
    shown = response.content.decode()
    assert f"Run {run.pk} is cancelled." in shown
    assert page(run) not in shown, "nothing is left to cancel"


def test_a_running_run_is_shown_as_being_cancelled(
    run: SchedulingHistoryItem, log_in: LogIn
) -> None:
    run.claim("a worker")
    response = log_in(*MAY_CANCEL).post(page(run), follow=True)
    run.refresh_from_db()
    assert run.status == "running"
    assert run.cancel_requested_at and run.cancelled_by
    assert "(cancelling)" in response.content.decode()


def test_a_run_that_is_over_is_said_to_be(run: SchedulingHistoryItem, log_in: LogIn) -> None:
    runs.execute(run.pk)
    client = log_in(*MAY_CANCEL)
    assert "This run is over: success." in client.get(page(run)).content.decode()
    assert "is over already" in client.post(page(run), follow=True).content.decode()


def test_cancelling_needs_its_own_permission(run: SchedulingHistoryItem, log_in: LogIn) -> None:
    client = log_in(*MAY_LOOK, "run_schedulingitem", "replay_schedulinghistoryitem")
    assert page(run) not in client.get(page(run, "change")).content.decode()
    assert client.get(page(run)).status_code == client.post(page(run)).status_code == 403
    assert Client().post(page(run)).url.startswith("/admin/login/")
    run.refresh_from_db()
    assert run.status == "queued"


def test_the_command_cancels(
    run: SchedulingHistoryItem, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("cancel_run", str(run.pk))
    assert capsys.readouterr().out == f"Run {run.pk} of “Item 1” is cancelled.\n"
    run.refresh_from_db()
    assert run.error == "Cancelled by somebody at the command line before it began."
    with pytest.raises(CommandError, match="over already"):
        call_command("cancel_run", str(run.pk))
    with pytest.raises(CommandError, match="There is no run 0"):
        call_command("cancel_run", "0")
