"""`ctpatch prepare FORMAT`: raw CT to prepared slices, on the command line; a command for each reader."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from cyclopts import App, Parameter

from ctpatch.cli.options import (
    EngineOptions,
    HuOptions,
    Json,
    OptionGroup,
    OutputOptions,
    PrivacyOptions,
    SizeOptions,
    SplitOptions,
    executor_from,
    json_text,
    result_json,
)
from ctpatch.errors import EXIT_DATA, EXIT_DONE
from ctpatch.prepare.readers import READERS, formats_with, raw_format
from ctpatch.prepare.readers.base import RawFormat

if TYPE_CHECKING:
    from ctpatch.prepare.pipeline import PrepareResult

prepare_app = App(
    name="prepare",
    help="Raw CT to prepared slices in [0, 1], in splits by patient, with nothing private in them.",
    help_format="markdown",
    default_parameter=Parameter(negative=""),
)

_HELP = {"follow_links": "Follow symbolic links that leave the source, and links to folders."}
"""Of options that every raw format has."""

_GOES_ON = "goes on where an earlier run was cut off."


def _add_command(name: str) -> None:
    """Add the command of a raw format: its own options among those that all have."""
    kind = _options(raw_format(name))
    hu_options = HuOptions if kind.in_hu else OptionGroup

    def command(
        source: Annotated[Path, Parameter(help="The folder of the raw files.")],
        *,
        out: Annotated[Path, Parameter(help="The data root: the set goes to prepared/DATASET in it.")],
        dataset: Annotated[str, Parameter(help="Name of the data set.")],
        in_hu: Annotated[hu_options, _spread(hu_options)] = hu_options(),  # type: ignore[valid-type]
        size: SizeOptions = SizeOptions(),
        splits: SplitOptions = SplitOptions(),
        raw: Annotated[kind, _spread(kind)] = kind(),  # type: ignore[valid-type]
        privacy: PrivacyOptions = PrivacyOptions(),
        engines: EngineOptions = EngineOptions(),
        output: OutputOptions = OutputOptions(),
        json_output: Json = False,
    ) -> int:
        from ctpatch.cli.screen import ConsoleListener, print_out  # noqa: PLC0415
        from ctpatch.prepare.api import prepare_raw  # noqa: PLC0415

        # What is printed anywhere else than on a terminal is kept, and read by others.
        options: dict[str, Any] = {"names_shown": not json_output and sys.stdout.isatty() and sys.stderr.isatty()}
        for group in (in_hu, size, splits, privacy, output):
            options |= group.given()
        if engines.workers is not None:  # whatever the engine, headers are looked at by this many processes here
            options["workers"] = engines.workers
        with ConsoleListener(quiet=json_output) as listener, executor_from(engines.given()) as work:
            result = prepare_raw(raw, source, out, dataset, **options | work, listener=listener)
        as_json = result_json(result, faults=result.faults, left_out=result.left_out)
        print_out(json_text(as_json) if json_output else summary(result))
        return EXIT_DONE if result.complete else EXIT_DATA

    prepare_app.command(command, name=name, help=f"{kind.title}; {_GOES_ON}")


def _options(kind: type[RawFormat]) -> type[RawFormat]:
    """A raw format whose options are shown under the headings and names that stand in their annotations."""
    hints = get_type_hints(kind, include_extras=True)
    shown: dict[str, Any] = {}
    for name in (each.name for each in fields(kind)):
        texts = [text for text in getattr(hints[name], "__metadata__", ()) if isinstance(text, str)]
        said: dict[str, Any] = {"name" if text.startswith("--") else "group": text for text in texts}
        if name in _HELP:
            said["help"] = _HELP[name]
        shown[name] = Annotated[hints[name], Parameter(**said)]
    names = {"__annotations__": shown, "__doc__": kind.__doc__, "__module__": __name__}
    return dataclass(frozen=True)(type(kind.__name__, (kind,), names))


def _spread(group: type[Any]) -> Parameter:
    """A group's options as options of the command, also where it has none."""
    return Parameter(name="*", parse=None if fields(group) else False)


for _name in READERS:
    _add_command(_name)


def option_of_others(tokens: list[str]) -> str:
    """What to say of the first option in a command line that only other raw formats have; blank where there is none."""
    if tokens[:1] != ["prepare"] or tokens[1:2] == [] or tokens[1] not in READERS:
        return ""
    for token in tokens:
        option = token.partition("=")[0]
        having = formats_with(option[2:].replace("-", "_")) if option.startswith("--") else []
        if having and tokens[1] not in having:
            commands = " and ".join(f"ctpatch prepare {name}" for name in having)
            return f"{option} is an option of {commands} alone; leave it out for {tokens[1]}"
    return ""


def summary(result: "PrepareResult") -> str:
    """What a preparation did, as text."""
    from ctpatch.checking.findings import counted  # noqa: PLC0415
    from ctpatch.cli.screen import OUTCOMES, lines, shown_path  # noqa: PLC0415

    meta = result.meta
    rows = []
    for name, info in meta.splits.items():
        slices = counted(info.num_slices, "slice", "slices")
        rows.append((name, f"{slices} of {counted(info.num_patients, 'patient', 'patients')}: {info.manifest}"))
    rows.append(("arrays", ", ".join(f"{name} ({dtype})" for name, dtype in meta.arrays.items())))
    rows.append(("values", _values(meta.mapping)))
    rows += _under("left out", result.left_out_short)
    if meta.num_left_out:
        count = sum(meta.num_left_out.values())
        said = f"left_out.csv lists {count:,}, under pseudonyms; --names FILE writes the table of pseudonyms"
        rows.append(("", said))
    rows += _under("failed", result.faults_short)
    if result.outcome != "complete":
        rows.append(("time", f"{result.seconds:.1f} s"))
    rows.append(("next", f"ctpatch build {shown_path(result.folder)}"))
    return lines(f"{meta.dataset} {OUTCOMES[result.outcome]}: {shown_path(result.folder)}", rows)


def _under(name: str, texts: list[str]) -> list[tuple[str, str]]:
    """Rows of one name, which stands before the first alone."""
    return [(name if place == 0 else "", text) for place, text in enumerate(texts)]


def _values(mapping: dict[str, Any]) -> str:
    if mapping["kind"] == "window":
        return f"{mapping['low_hu']:g} to {mapping['high_hu']:g} HU become 0 to 1"
    return "attenuation as in LoDoPaB-CT" if mapping["kind"] == "lodopab" else "as stored, 0 to 1"
