"""Which split a patient goes to: by a keyed hash, so that more patients move nobody; or as a table says."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ctpatch.config import check_name
from ctpatch.errors import ConfigError, SourceManifestError
from ctpatch.files.atomic import given_path
from ctpatch.prepare.exact_shares import cut_exactly, deal, fold_names

DEFAULT_SPLITS = ("train=0.8", "validation=0.1", "test=0.1")
_HASH_BITS = 64
_SUM_TOLERANCE = 1e-6
_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Shares:
    """Splits by share of the patients.

    Attributes:
        splits: names and shares, in the order given; the shares sum to 1.
        seed: chooses the assignment.
        exact: meet the shares exactly, to rounding; then adding patients can move others.
        folds: whether the splits are folds, of one size.
    """

    splits: tuple[tuple[str, float], ...]
    seed: int = 0
    exact: bool = False
    folds: bool = False

    @classmethod
    def of_folds(cls, count: int, seed: int = 0, *, exact: bool = False) -> "Shares":
        """Folds of one size, `fold0` and so on."""
        return cls(tuple((name, 1 / count) for name in fold_names(count)), seed, exact, folds=True)

    @classmethod
    def parse(cls, texts: Sequence[str], seed: int = 0, *, exact: bool = False) -> "Shares":
        """Shares as `train=0.8`, one text for each split; ConfigError where a text or their sum is wrong."""
        splits: list[tuple[str, float]] = []
        for text in texts:
            name, _, share_text = text.partition("=")
            try:
                share = float(share_text)
            except ValueError:
                share = -1.0
            if not 0 <= share <= 1:
                raise ConfigError(f"split: {text!r}, wanted a name and a share from 0 to 1, such as train=0.8")
            splits.append((check_name(name.strip(), "the split"), share))
        names = [name for name, _ in splits]
        if len(set(names)) < len(names) or not names:
            raise ConfigError(f"split: {', '.join(names) or 'nothing'}; wanted each split once, such as train=0.8")
        total = sum(share for _, share in splits)
        if abs(total - 1) > _SUM_TOLERANCE:
            raise ConfigError(f"split: the shares {', '.join(texts)} sum to {total:g}, wanted 1")
        return cls(tuple(splits), seed, exact)

    def place(self, patient: str) -> float:
        """Where a patient falls in [0, 1): of patient and seed alone."""
        key = hashlib.sha256(f"ctpatch split {self.seed}".encode()).digest()
        digest = hashlib.blake2b(patient.encode("utf-8", "surrogateescape"), key=key, digest_size=_HASH_BITS // 8)
        return int.from_bytes(digest.digest(), "big") / float(1 << _HASH_BITS)

    def split_at(self, place: float) -> str:
        """The split that a place in [0, 1) falls into."""
        upper = 0.0
        for name, share in self.splits:
            upper += share
            if place < upper:
                return name
        return next(name for name, share in reversed(self.splits) if share > 0)


@dataclass(frozen=True, slots=True)
class PatientTable:
    """What a user's CSV says of patients: for each, as named there, the cells of its row; `name` is for messages."""

    name: str
    rows: dict[str, dict[str, str]]
    columns: tuple[str, ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "PatientTable":
        """Read a CSV with a column `patient_id`; SourceManifestError where a row or all of it is unusable."""
        file = given_path(path)
        frame = _read_csv(file)
        if "patient_id" not in frame.columns:
            raise SourceManifestError(
                f"{file.name} has the columns {', '.join(frame.columns)[:200]}, wanted patient_id among them"
            )
        rows: dict[str, dict[str, str]] = {}
        for number, row in enumerate(frame.iter_rows(named=True), start=2):
            cells = {name: (value or "").strip() for name, value in row.items()}
            patient = cells.pop("patient_id")
            if not patient:
                raise SourceManifestError(f"{file.name} row {number}, column patient_id: it is empty")
            if rows.setdefault(patient, cells) != cells:
                raise SourceManifestError(
                    f"{file.name} row {number}: its patient stands there before, with other cells; "
                    "a patient is in one split"
                )
        return cls(file.name, rows, tuple(frame.columns))


def _read_csv(file: Path) -> pl.DataFrame:
    try:
        frame = pl.read_csv(file.read_bytes(), infer_schema=False)
    except OSError as error:
        raise SourceManifestError(f"{file.name} cannot be read: {error.strerror}") from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise SourceManifestError(f"{file.name} is not a CSV in UTF-8 with a header: {reason}") from None
    return frame.rename({column: column.strip() for column in frame.columns})


def assign(
    patients: Mapping[str, str],
    shares: Shares,
    table: PatientTable | None = None,
    stratify: str | None = None,
    listed_as: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, str]:
    """The split of each patient.

    Args:
        patients: ids as the source has them, and their pseudonyms.
        shares: by hash, where no table says otherwise.
        table: given splits, in its column `split`, or the column to stratify by.
        stratify: keep the shares within each value of this column of the table, to a patient.
        listed_as: other names under which the table may list what `patients` holds, where that are no patients.

    Raises:
        ConfigError: the table is needed and not given, or has no such column.
        SourceManifestError: a patient is not in the table, or its cell is empty.
    """
    if stratify is not None:
        if table is None or stratify not in table.columns:
            have = "no table is given" if table is None else f"{table.name} has {', '.join(table.columns)}"
            raise ConfigError(f"stratify: {stratify!r} must be a column of the patients' table; {have}")
        strata = _cells(patients, table, stratify, listed_as or {})
        if shares.folds:
            return deal([name for name, _ in shares.splits], _by_hash(shares, patients), strata)
        return _stratified(shares, strata)
    if table is None:
        if shares.exact:
            return cut_exactly(shares.splits, _by_hash(shares, patients))
        return {patient: shares.split_at(shares.place(patient)) for patient in patients}
    if "split" not in table.columns:
        raise ConfigError(f"{table.name} has no column split, and no column of it is named to stratify by")
    cells = _cells(patients, table, "split", listed_as or {})
    return {patient: check_name(name, "the split") for patient, name in cells.items()}


def _cells(
    patients: Mapping[str, str], table: PatientTable, column: str, listed_as: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """A cell of each patient, who is listed by id or by pseudonym."""
    names = {patient: (patient, pseudonym, *listed_as.get(patient, ())) for patient, pseudonym in patients.items()}
    rows = {patient: next(filter(None, map(table.rows.get, each)), None) for patient, each in names.items()}
    cells = {patient: row[column] if row else "" for patient, row in rows.items()}
    missing = [patient for patient, cell in cells.items() if not cell]
    if missing:
        raise SourceManifestError(
            f"{table.name} says nothing in column {column} for {len(missing)} of {len(cells)} patients: "
            f"{', '.join(repr(each[:60]) for each in missing[:_NAMES_SHOWN])}; add them"
        )
    return cells


def _stratified(shares: Shares, strata: Mapping[str, str]) -> dict[str, str]:
    """Shares held within each stratum: its patients in the order of their hashes, cut at the rounded shares."""
    members: dict[str, list[str]] = {}
    for patient, stratum in strata.items():
        members.setdefault(stratum, []).append(patient)
    return {
        patient: shares.split_at((number + 0.5) / len(group))
        for group in members.values()
        for number, patient in enumerate(_by_hash(shares, group))
    }


def _by_hash(shares: Shares, patients: Iterable[str]) -> list[str]:
    return sorted(patients, key=lambda each: (shares.place(each), each))
