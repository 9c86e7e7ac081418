"""The command `inspect`: what is in a folder of raw CT."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ctpatch.cli.options import Json, json_text
from ctpatch.errors import EXIT_DATA, EXIT_DONE


def inspect(
    source: Annotated[Path, Parameter(help="The folder of the raw files, or one file.")],
    *,
    slices: Annotated[int, Parameter(help="Slices of each series to read for the range of HU; 0: none.")] = 3,
    follow_links: Annotated[
        bool, Parameter(help="Follow symbolic links that leave the source, and links to folders.")
    ] = False,
    workers: Annotated[int, Parameter(help="Processes that read headers of DICOM files.")] = 1,
    json_output: Json = False,
) -> int:
    """Say what is in a folder of raw CT, and which command prepares it; writes nothing.

    Exit status 1 where there is nothing that ctpatch can use.
    """
    from ctpatch.cli.screen import ConsoleListener, print_out  # noqa: PLC0415
    from ctpatch.inspecting.api import inspect as run_inspect  # noqa: PLC0415

    # What is printed anywhere else than on a terminal is kept, and read by others.
    names_shown = not json_output and sys.stdout.isatty()
    with ConsoleListener(quiet=json_output) as listener:
        found = run_inspect(
            source,
            slices=slices,
            follow_links=follow_links,
            names_shown=names_shown,
            workers=workers,
            listener=listener,
        )
    print_out(json_text(found.as_dict()) if json_output else repr(found))
    return EXIT_DONE if found.usable else EXIT_DATA
