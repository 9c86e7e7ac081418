"""What a user is told of splits: those that stay empty, what stands for patients, and patients who may be divided."""

from collections import Counter
from collections.abc import Sequence

from ctpatch.events import Listener, Notice
from ctpatch.format.ids import id_key
from ctpatch.prepare.planning import PreparePlan
from ctpatch.prepare.short import first_three


def notice_splits(plan: PreparePlan, shares: Sequence[str], listener: Listener, names_shown: bool) -> None:
    """Say where a split that was asked for stays empty, what stands in for patients, and who is in several splits."""
    empty = [name for name in shares if name not in plan.tasks]
    if empty:
        groups, filled = len({task.patient for task in plan.all_tasks()}), next(iter(plan.tasks))
        reason = (
            f"there is one patient (or what stands for one), whose hash falls into {filled}; --split {filled}=1 asks "
            "for that split alone"
            if groups == 1
            else f"the hashes of the {groups} patients (or what stands for them) put none there; take other shares, "
            "another --seed, give the splits in a table, or let --exact put a patient into each"
        )
        listener(Notice("empty-split", f"no slices in {' and '.join(empty)}: {reason}"))
    slices = [(task, task.slices[0]) for task in plan.all_tasks()]
    nobodys = Counter(raw.group_kind for _, raw in slices if raw.who_kind != "patient")
    for kind, count in sorted(nobodys.items()):
        said = f"{count} slices have no patient id: each {kind} counts as one patient when splits are made"
        listener(Notice("no-patient", said))
    places: dict[str, set[str]] = {}
    for task, raw in slices:
        places.setdefault(raw.who, set()).add(task.split)
    divided = [who for who, found in places.items() if len(found) > 1]
    if divided:
        kinds = " or ".join(sorted({raw.group_kind for _, raw in slices if raw.patient is not None}))
        names = f" ({first_three([repr(who) for who in divided])})" if names_shown else ""
        said = (
            f"{len(divided)} of {len(places)} patients have slices in several splits{names}, because splits keep each "
            f"{kinds} together, not each patient. A network is then tested on patients that it was trained on, and "
            "ctpatch audit reports them. Use --group-by patient, unless one id stands for many people"
        )
        listener(Notice("divided-patients", said))
    _notice_spellings({raw.who for _, raw in slices if raw.who_kind == "patient"}, listener, names_shown)


def _notice_spellings(patients: set[str], listener: Listener, names_shown: bool) -> None:
    """Say which ids are the same but for spelling: their pseudonyms differ, so that nobody can see it later."""
    alike: dict[str, list[str]] = {}
    for name in sorted(patients):
        alike.setdefault(id_key(name), []).append(name)
    several = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    if several:
        names = f" ({first_three(several)})" if names_shown else ""
        said = (
            f"{len(several)} patient ids are the same but for spelling{names}: ctpatch takes them for different "
            "patients, whose slices can lie in different splits. If they are one patient, give both spellings the same "
            "split in a table (--patients)"
        )
        listener(Notice("patient-spelling", said))
