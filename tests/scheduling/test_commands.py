"""`manage.py run_item`: its exit status and its words tell the truth."""

import pytest
from django.core.management import CommandError, call_command

from scheduling.models import SchedulingHistoryItem
from tests.factories import MakeItem


def test_a_good_run_reports_its_rows_and_place(
    make_item: MakeItem, capsys: pytest.CaptureFixture[str]
) -> None:
    make_item(name="Traces")
    call_command("run_item", "Traces")
    output = capsys.readouterr().out
    run = SchedulingHistoryItem.objects.get()
    assert output.startswith("Success: 5 of 5 rows in ")
    assert run.place in output
    assert run.trigger == "command"


def test_a_failed_run_fails_the_command_with_its_error(make_item: MakeItem) -> None:
    make_item(name="Traces", sql="SELECT * FROM nowhere")
    with pytest.raises(CommandError, match="no such table: nowhere"):
        call_command("run_item", "Traces")


def test_an_unknown_name_is_refused_with_the_known_ones(make_item: MakeItem) -> None:
    make_item(name="Traces")
    with pytest.raises(CommandError, match="no scheduling item “Trace”"):
        call_command("run_item", "Trace")
