"""Patients to splits, as the options, a table or the source itself say."""

from collections.abc import Mapping, Sequence

from ctpatch.errors import ConfigError
from ctpatch.prepare.options import CommonOptions
from ctpatch.prepare.planning import Row, given_splits, listed_as
from ctpatch.prepare.privacy.pseudonyms import Pseudonyms
from ctpatch.prepare.splits import DEFAULT_SPLITS, PatientTable, Shares, assign


def shares_and_table(options: CommonOptions) -> tuple[Shares, PatientTable | None]:
    """The shares and the table of patients that the options name; ConfigError where they contradict each other."""
    table = None if options.patients is None else PatientTable.read(options.patients)
    if options.stratify is not None and table is None:
        raise ConfigError(f"stratify: {options.stratify!r} is a column of the table of patients, and none is given")
    asked = "folds" if options.folds is not None else "exact" if options.exact else None
    if asked and table is not None and options.stratify is None:
        raise ConfigError(
            f"{asked}: the table of patients gives the splits; leave out one of them, or name a column to stratify by"
        )
    if options.folds is None:
        if options.exact and options.stratify is not None:
            raise ConfigError(
                "exact: stratify keeps the shares in each value of its column already; leave out one of them"
            )
        return Shares.parse(options.split, options.seed, exact=options.exact), table
    if tuple(options.split) != DEFAULT_SPLITS:
        raise ConfigError("folds: they are the splits, all of one size; leave out the shares of split")
    return Shares.of_folds(options.folds, options.seed, exact=options.exact), table


def divide(
    rows: Sequence[Row],
    patients: Mapping[str, str],
    shares: Shares,
    table: PatientTable | None,
    options: CommonOptions,
    pseudonyms: Pseudonyms,
) -> tuple[dict[str, str], list[str]]:
    """The split of each group, and the splits that the shares ask for: none where a table or the source has them.

    Raises:
        ConfigError: a fold would stay empty, there are too few patients, or the source has splits of its own.
    """
    given = given_splits(rows)
    if given is not None and table is None:
        if shares.exact or shares.folds:
            raise ConfigError(
                f"{'folds' if shares.folds else 'exact'}: the source has splits of its own, which ctpatch keeps; "
                "leave out the option"
            )
        return given, []
    splits = assign(patients, shares, table, options.stratify, listed_as(rows, pseudonyms))
    asked = [name for name, share in shares.splits if share > 0]
    empty = [name for name in asked if name not in set(splits.values())]
    if shares.folds and empty:
        raise ConfigError(
            f"folds: of {len(patients)} patients (or what stands for them) none falls into {' and '.join(empty)}; "
            "ask for fewer folds, for another seed, or for folds of exactly equal size (--exact)"
        )
    return splits, asked if table is None else []
