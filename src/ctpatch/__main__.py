"""`python -m ctpatch`."""

from ctpatch.cli import entry

if __name__ == "__main__":
    entry()
