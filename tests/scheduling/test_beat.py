"""Each item that can still run has one periodic task, and no other item has any."""

from datetime import date

import pytest
from django.core.management import call_command
from django_celery_beat.models import CrontabSchedule, PeriodicTask

from scheduling import beat
from scheduling.models import SchedulingItem
from tests.factories import MakeItem

pytestmark = pytest.mark.django_db


def only_task() -> PeriodicTask:
    return PeriodicTask.objects.get()


def test_saving_an_item_makes_its_task(make_item: MakeItem) -> None:
    item = make_item(cron_expression="30 7 * * 1-5", timezone="Europe/Rome")
    task = only_task()
    assert (task.task, task.args) == ("scheduling.run_item", f"[{item.pk}]")
    assert (task.crontab.minute, task.crontab.hour) == ("30", "7")
    assert str(task.crontab.timezone) == "Europe/Rome"


def test_editing_the_schedule_changes_the_task(make_item: MakeItem) -> None:
    item = make_item()
    item.cron_expression = "*/5 * * * *"
    item.save()
    assert only_task().crontab.hour == "*"


def test_classic_items_tick_at_their_time(make_item: MakeItem) -> None:
    make_item(scheduling_mode="classic", days_of_week=[0, 6], hour=7, minute=5)
    assert (only_task().crontab.minute, only_task().crontab.hour) == ("5", "7")


@pytest.mark.parametrize("change", [{"enabled": False}, {"end_date": date(2020, 1, 1)}])
def test_disabling_or_ending_an_item_removes_its_task(
    make_item: MakeItem, change: dict[str, object]
) -> None:
    item = make_item()
    for name, value in change.items():
        setattr(item, name, value)
    item.save()
    assert not PeriodicTask.objects.exists()


def test_deleting_an_item_removes_its_task(make_item: MakeItem) -> None:
    make_item().delete()
    assert not PeriodicTask.objects.exists()


def test_items_at_the_same_time_share_a_crontab(make_item: MakeItem) -> None:
    make_item()
    make_item()
    assert PeriodicTask.objects.count() == 2
    assert CrontabSchedule.objects.count() == 1


def test_repair_restores_what_is_missing_wrong_or_too_much(make_item: MakeItem) -> None:
    missing, wrong, gone = (make_item(name=name) for name in ("missing", "wrong", "gone"))
    PeriodicTask.objects.filter(name=beat.task_name(missing.pk)).delete()
    PeriodicTask.objects.filter(name=beat.task_name(wrong.pk)).update(args="[0]")
    SchedulingItem.objects.filter(pk=gone.pk)._raw_delete("default")
    repaired = beat.repair()
    assert set(repaired.written) == {"missing", "wrong"}
    assert repaired.removed == (beat.task_name(gone.pk),)
    assert beat.repair() == beat.Repair((), ())


def test_repair_leaves_other_peoples_tasks_alone(make_item: MakeItem) -> None:
    item = make_item()
    PeriodicTask.objects.create(name="theirs", task="x", crontab=only_task().crontab)
    item.delete()
    assert beat.repair().removed == ()
    assert only_task().name == "theirs"


def test_an_item_whose_expression_was_broken_by_hand_does_not_stop_the_repair(
    make_item: MakeItem,
) -> None:
    broken, sound = make_item(), make_item()
    SchedulingItem.objects.filter(pk=broken.pk).update(cron_expression="nonsense")
    beat.repair()
    assert only_task().name == beat.task_name(sound.pk)


def test_the_command_says_what_it_repaired(
    make_item: MakeItem, capsys: pytest.CaptureFixture[str]
) -> None:
    make_item(name="Traces")
    PeriodicTask.objects.all().delete()
    call_command("sync_beat")
    assert capsys.readouterr().out == "changed: Traces\n"
    call_command("sync_beat")
    assert capsys.readouterr().out == "Nothing to repair.\n"
