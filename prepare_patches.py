"""`python prepare_patches.py SRC…` is `ctpatch build SRC…`: the script that the notebook planned."""

import sys
from pathlib import Path

try:
    from ctpatch.cli.app import main
except ImportError:
    # From a checkout that is not installed: the package beside this file, where its dependencies are there.
    sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))
    from ctpatch.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["build", *sys.argv[1:]]))
