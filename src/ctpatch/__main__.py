"""`ctpatch` and `python -m ctpatch`."""

import sys

from ctpatch.errors import EXIT_INTERRUPTED


def entry() -> None:
    """Run the command line and end the process; Ctrl-C while modules are still imported ends in a sentence too."""
    try:
        from ctpatch.cli.app import main  # noqa: PLC0415
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(main())


if __name__ == "__main__":
    entry()
