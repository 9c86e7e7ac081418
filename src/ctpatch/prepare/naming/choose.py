"""Arrays whose files are told by name, from the options of a preparation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ctpatch.errors import ConfigError, UsageError
from ctpatch.events import Listener, Notice
from ctpatch.files.digest import json_digest
from ctpatch.prepare.naming.names import NAMINGS, Naming, parse_pair, recognised, structures_of
from ctpatch.prepare.naming.reader import NamedReader
from ctpatch.prepare.part import ArraySource
from ctpatch.prepare.readers.tree import find_files
from ctpatch.prepare.readers.volume.reader import VolumeReader


def refuse_with_names(given: Sequence[str]) -> None:
    """Raise ConfigError for options that say otherwise what images and masks are."""
    if given:
        raise ConfigError(f"{given[0]}: names tell images and masks already (naming, pair); leave out one of them")


def name_arrays(
    arrays: Sequence[ArraySource],
    naming: str | None,
    pair: str | None,
    structures: Sequence[str] | None,
    listener: Listener,
) -> tuple[list[ArraySource], dict[str, Any]]:
    """Image and mask by their names, and what goes on record of it.

    Raises:
        ConfigError: the options make no sense together.
        UsageError: no naming, or several, fit the source.
    """
    image, *masks = arrays
    base = image.reader
    if not isinstance(base, VolumeReader):
        raise ConfigError("naming: only volumes are told by name; use --mask and --mask-series here")
    if (naming is None) == (pair is None):
        raise ConfigError("naming: wanted either a naming or a pair of names, such as naming='auto'")
    mask = masks[0] if masks else replace(image, array="mask", mapping=None)
    shared = mask.root == image.root
    if not shared and pair is None:
        raise ConfigError("mask: with a naming, images and masks lie in one source; leave out the mask")
    files, _ = find_files(image.root, follow_links=base.follow_links)
    chosen = parse_pair(pair) if pair is not None else _known(str(naming), files)
    if naming == "auto":
        listener(Notice("naming", f"images and masks are named as in {chosen.name}; --naming {chosen.name} says so"))
    if isinstance(structures, str):
        structures = structures.split(",")
    elif structures is not None:
        structures = [name for each in structures for name in each.split(",")]
    numbers = structures_of(chosen, files, structures)
    recorded: dict[str, Any] = {"naming": chosen.name}
    if pair is not None:
        recorded["pair"] = json_digest(pair)  # names of people could stand in it
    if numbers:
        recorded["structures"] = numbers
        listener(Notice("structures", f"labels: {', '.join(f'{at} {name}' for name, at in numbers.items())}"))
    assert isinstance(mask.reader, VolumeReader)
    return [
        replace(image, reader=NamedReader(base, chosen, "image", shared=shared)),
        replace(mask, reader=NamedReader(mask.reader, chosen, "mask", tuple(numbers), shared)),
    ], recorded


def _known(naming: str, files: Sequence[str]) -> Naming:
    if naming == "auto":
        return recognised(files)
    if naming not in NAMINGS:
        raise ConfigError(f"naming: {naming!r} is not known, wanted auto, {', '.join(NAMINGS)}")
    found = NAMINGS[naming]
    if not any(found.named("image", file) for file in files):
        raise UsageError(
            f"naming: no file of the source is named as an image of {naming}; see --naming auto, or --pair"
        )
    return found
