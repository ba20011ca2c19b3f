"""Finds items and destinations that write the same file as another one, before they do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from django.db.models import Case, IntegerField, Value, When

from queryexport.errors import ExportError
from scheduling.examples import slots
from scheduling.models import Destination, OnExisting, Output, SchedulingItem, SharingMode

SLOTS = 3
# More in one folder are not compared; those of the same query come first.
MOST_COMPARED = 500
# From the one that says least: what comes of it if one of the two is set so.
CONSEQUENCES = {
    OnExisting.NUMBER: "",
    OnExisting.REFUSE: "the later run fails",
    OnExisting.KEEP: "the old files of both are kept together",
    OnExisting.REPLACE: "the later run replaces it",
}


@dataclass(frozen=True)
class Itself:
    """Which stored rows are the one that is compared, so that it is not found: an item's own
    destination, or a further one.
    """

    item: int = 0
    destination: int = 0


def itself(output: Output) -> Itself:
    pk = output.pk or 0
    return Itself(item=pk) if isinstance(output, SchedulingItem) else Itself(destination=pk)


def warnings(output: Output, now: datetime, *, me: Itself) -> list[str]:
    """A sentence for each enabled other one whose next slots give a path of its next slots."""
    if output.sharing_mode != SharingMode.FILESYSTEM or output.output_url:
        return []
    mine = _paths(output, now, run_id=1)
    found = []
    for other in _others(output, me) if mine else ():
        both = [path for path in _paths(other, now, run_id=2) if path in mine]
        if both and (words := _consequence(output, other)):
            found.append(f"{_named(output, other)} writes the same file {both[0]}; {words}")
    return found


def _paths(output: Output, now: datetime, *, run_id: int) -> Sequence[str]:
    """Inside the export folder."""
    try:
        folder = PurePosixPath(output.output_dir.replace("\\", "/"))
        names = [output.file_name(slot, run_id=run_id) for slot in slots(output, now, number=SLOTS)]
    except ExportError:
        return []
    return [str(folder / name) for name in names]


def _others(output: Output, me: Itself) -> Iterator[Output]:
    """Those of the same folder."""
    source = output.source
    place = {
        "sharing_mode": SharingMode.FILESYSTEM,
        "output_url": "",
        "output_dir__in": _spellings(output.output_dir),
    }
    items = SchedulingItem.objects.filter(enabled=True, **place).exclude(pk=me.item)
    further = Destination.objects.filter(enabled=True, item__enabled=True, **place)
    yield from (
        items.select_related("query", "connection")
        .alias(far=_far("query", source.query_id))
        .order_by("far", "pk")[:MOST_COMPARED]
    )
    yield from (
        further.exclude(pk=me.destination)
        .select_related("item__query", "item__connection")
        .alias(far=_far("item__query", source.query_id))
        .order_by("far", "pk")[:MOST_COMPARED]
    )


def _far(query: str, pk: int | None) -> Case:
    same = When(**{query: pk}, then=Value(0))
    return Case(same, default=Value(1), output_field=IntegerField())


def _spellings(folder: str) -> list[str]:
    plain = str(PurePosixPath(folder.replace("\\", "/")))
    if plain == ".":
        return ["", ".", "./"]
    return [plain, f"{plain}/", f"./{plain}", f"./{plain}/", folder]


def _named(output: Output, other: Output) -> str:
    if isinstance(other, SchedulingItem):
        if output.source.pk == other.pk:
            return "The item itself"
        return f"“{other}”"
    if output.source.pk == other.source.pk:
        return f"The further destination “{other}”"
    return f"“{other.source}” (its destination “{other}”)"


def _consequence(output: Output, other: Output) -> str:
    rules = {OnExisting(each.output_on_existing) for each in (output, other)}
    worst = max(rules, key=list(CONSEQUENCES).index)
    words = CONSEQUENCES[worst]
    return f"with “{worst.label}”, {words}." if words else ""
