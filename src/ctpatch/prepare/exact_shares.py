"""Splits of an exact number of patients, and folds of equal strata: what a hash alone cannot promise."""

from collections.abc import Mapping, Sequence

from ctpatch.errors import ConfigError

MOST_FOLDS = 100


def fold_names(count: int) -> list[str]:
    """`fold0`, `fold1` and so on; ConfigError for a number of folds that makes no sense."""
    if not 2 <= count <= MOST_FOLDS:  # noqa: PLR2004 - one fold divides nothing
        raise ConfigError(f"folds: {count}, wanted 2 to {MOST_FOLDS}, such as 5")
    return [f"fold{number}" for number in range(count)]


def exact_counts(shares: Sequence[tuple[str, float]], patients: int) -> list[int]:
    """How many patients each split gets, by largest remainders; at least one where its share is above 0.

    Raises:
        ConfigError: there are fewer patients than splits with a share.
    """
    asked = [name for name, share in shares if share > 0]
    if patients < len(asked):
        raise ConfigError(
            f"exact: there are {patients} patients for {len(asked)} splits ({', '.join(asked)}), so one would stay "
            f"empty; ask for at most {patients} splits"
        )
    # Rounded, so that 0.1 * 30 counts as 3 whatever its last bit is.
    quotas = [round(share * patients, 9) for _, share in shares]
    counts = [int(quota) for quota in quotas]
    by_rest = sorted(range(len(shares)), key=lambda at: (counts[at] - quotas[at], at))
    for at in by_rest[: patients - sum(counts)]:
        counts[at] += 1
    for at, (_, share) in enumerate(shares):
        if share > 0 and counts[at] == 0:
            counts[counts.index(max(counts))] -= 1
            counts[at] = 1
    return counts


def cut_exactly(shares: Sequence[tuple[str, float]], ordered: Sequence[str]) -> dict[str, str]:
    """The split of each patient: the first ones in the first split, as many as its share says."""
    names = [
        name for (name, _), count in zip(shares, exact_counts(shares, len(ordered)), strict=True) for _ in range(count)
    ]
    return dict(zip(ordered, names, strict=True))


def deal(names: Sequence[str], ordered: Sequence[str], strata: Mapping[str, str]) -> dict[str, str]:
    """The fold of each patient: the patients of a stratum after those of the one before, dealt in turn.

    So the numbers of two folds differ by one patient at most, in each stratum and in all.
    """
    in_strata = sorted(ordered, key=lambda patient: strata[patient])
    return {patient: names[number % len(names)] for number, patient in enumerate(in_strata)}
