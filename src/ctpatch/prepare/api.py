"""What users call: raw CT of one kind to a prepared data set."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from ctpatch.errors import ConfigError, SliceError, UsageError
from ctpatch.events import Listener, Notice
from ctpatch.files.atomic import given_path
from ctpatch.format.prepared_meta import NoteInfo
from ctpatch.prepare.geometry import Geometry
from ctpatch.prepare.inputs import Found, Input, find, nothing_found, refuse_faults
from ctpatch.prepare.options import (
    CommonKeywords,
    CommonOptions,
    HuKeywords,
    SourcePath,
    common_options,
    refuse_unknown,
    shown_keywords,
)
from ctpatch.prepare.part import ArraySource
from ctpatch.prepare.pipeline import Facts, LeftOutRow, PrepareResult, make_prepared, notice_splits
from ctpatch.prepare.planning import PreparePlan, Row, fitting_rows, given_splits, make_tasks
from ctpatch.prepare.privacy.calling import Calling, names_of, written_reason
from ctpatch.prepare.privacy.names import refuse_inside, write_names
from ctpatch.prepare.privacy.pseudonyms import Pseudonyms, load_key, save_key
from ctpatch.prepare.readers import raw_format
from ctpatch.prepare.readers.base import RawFormat, SeriesNote
from ctpatch.prepare.readers.dicom import Dicom
from ctpatch.prepare.readers.dicom import GroupBy as DicomGroup
from ctpatch.prepare.readers.lodopab import FilterName, Lodopab
from ctpatch.prepare.readers.nifti import GroupBy as NiftiGroup
from ctpatch.prepare.readers.nifti import Nifti
from ctpatch.prepare.repeats import repeated_places
from ctpatch.prepare.splits import PatientTable, Shares, assign
from ctpatch.prepare.values import STORED, Mapping, choose_mapping
from ctpatch.words import MatchBy
from ctpatch.work.executors.choose import as_executor
from ctpatch.work.executors.processes import ProcessExecutor


@shown_keywords(like=CommonOptions)
def prepare_raw(
    raw: RawFormat | str,
    source: SourcePath,
    out: SourcePath,
    dataset: str,
    *,
    target: SourcePath | None = None,
    mask: SourcePath | None = None,
    series: str | None = None,
    target_series: str | None = None,
    match_by: MatchBy | None = None,
    window: tuple[float, float] | None = None,
    preset: str | None = None,
    **common: Unpack[CommonKeywords],
) -> PrepareResult:
    """Prepare raw CT of any kind that ctpatch reads.

    Args:
        raw: its kind: a name in `ctpatch.prepare.readers.READERS`, or an object of such a kind with options of its own.
        source: the folder of the raw files, or one file.
        out: the data root; the set goes to `prepared/<dataset>` in it.
        dataset: its name.
        target: a second source, whose slices become the array `target`.
        mask: a source of masks; they become the array `mask`, unchanged.
        series: pattern (`*B70f*`) of the paths, descriptions or kernels that become `image`.
        target_series: the same for `target`, in the second source where there is one, else in the first.
        match_by: partners by `position` (patient and place) or by `path`; None takes `path` for NIfTI, else `position`.
        window: lowest and highest HU, mapped to 0 and 1; None takes -1024 and 3072.
        preset: `full`, `abdomen`, `lung`, `liver`, `brain` or `lodopab`, instead of a window.
        **common: see `ctpatch.prepare.options.CommonOptions`.

    Returns:
        What was done.

    Raises:
        ConfigError, UsageError: the call makes no sense; nothing was written.
        SliceError: a slice cannot be used (with `on_error="stop"`).
        SourceManifestError: the table of patients breaks the rules.
        OutputConflictError: the output holds something else.
        OutputLockedError: another process writes it.
        SystemFailureError: the system refused a read or a write.
    """
    raw = raw_format(raw)() if isinstance(raw, str) else raw
    options = common_options(out, dataset, common)
    in_hu = {"target": target, "mask": mask, "series": series, "target_series": target_series, "match_by": match_by,
             "window": window, "preset": preset}  # fmt: skip
    if not raw.in_hu:
        refuse_unknown([name for name, value in in_hu.items() if value is not None], CommonOptions.__slots__)
    mapping = choose_mapping(window, preset) if raw.in_hu else STORED
    # Headers are looked at on this machine, by as many processes as are meant to work on it.
    workers = options.executor.workers if isinstance(options.executor, ProcessExecutor) else options.workers
    inputs = [Input(array, raw.reader(array, workers), source, None, mapping) for array in raw.arrays()]
    inputs[0] = replace(inputs[0], pattern=series)
    if target is not None or target_series is not None:
        second = source if target is None else target
        inputs.append(Input("target", raw.reader("target", workers), second, target_series, mapping))
    if mask is not None:
        inputs.append(Input("mask", raw.reader("mask", workers), mask, None, None))
    return prepare(inputs, options, match_by or raw.match_by, raw.recorded())


@shown_keywords(like=prepare_raw)
def prepare_dicom(
    source: SourcePath,
    out: SourcePath,
    dataset: str,
    *,
    group_by: DicomGroup = "patient",
    keep_orientation: bool = False,
    allow_deflated: bool = False,
    **options: Unpack[HuKeywords],
) -> PrepareResult:
    """Prepare the CT slices in a tree of DICOM files.

    Args:
        source: the tree.
        out: the data root; the set goes to `prepared/<dataset>` in it.
        dataset: its name.
        group_by: what must not be divided between splits.
        keep_orientation: leave prone and decubitus slices as they are stored.
        allow_deflated: read deflated files, within bounds.
        **options: as `prepare_raw` takes them; `mask` is a tree of masks that are stored as CT slices.

    Returns:
        What was done.

    Raises:
        CtPatchError: as `prepare_raw`.
    """
    return prepare_raw(Dicom(group_by, keep_orientation, allow_deflated), source, out, dataset, **options)


@shown_keywords(like=prepare_raw)
def prepare_nifti(
    source: SourcePath,
    out: SourcePath,
    dataset: str,
    *,
    group_by: NiftiGroup = "folder",
    **options: Unpack[HuKeywords],
) -> PrepareResult:
    """Prepare the axial slices of NIfTI volumes in HU; see `prepare_raw` for what the options mean.

    Where no BIDS name tells the patient, `group_by` says what must not be divided between splits: all files of a
    `folder`, or each `file`.
    """
    return prepare_raw(Nifti(group_by), source, out, dataset, **options)


@shown_keywords(like=prepare_raw)
def prepare_lodopab(
    source: SourcePath,
    out: SourcePath,
    dataset: str,
    *,
    pairs: bool = False,
    filter_name: FilterName = "hann",
    frequency_scaling: float = 1.0,
    keep_orientation: bool = False,
    **options: Unpack[CommonKeywords],
) -> PrepareResult:
    """Prepare the HDF5 files of LoDoPaB-CT, in the splits they come in.

    Args:
        source: the folder of the files.
        out: the data root; the set goes to `prepared/<dataset>` in it.
        dataset: its name.
        pairs: filtered back-projections of the observations become `image`, the ground truth `target`.
        filter_name: of the back-projections: `ramp`, `shepp-logan`, `cosine`, `hamming` or `hann`.
        frequency_scaling: share of the frequencies that the filter lets pass, above 0 and at most 1.
        keep_orientation: leave images as they are stored: transposed, the patient on the side.
        **options: as `prepare_raw` takes them.

    Returns:
        What was done.

    Raises:
        ConfigError: no such filter or scaling, or one is given and no `pairs` that it could be for.
        CtPatchError: as `prepare_raw`.
    """
    raw = Lodopab(pairs, filter_name, frequency_scaling, keep_orientation)
    return prepare_raw(raw, source, out, dataset, **options)


def prepare(inputs: Sequence[Input], options: CommonOptions, match_by: MatchBy, how: dict[str, Any]) -> PrepareResult:
    """Prepare what readers find; see `prepare_raw` for what is raised.

    Args:
        inputs: `image` first, then the arrays beside it.
        options: what all kinds have in common.
        match_by: how partners are found.
        how: what else decides the result, by name, for the record.
    """
    listener = options.listener
    geometry = Geometry(options.spacing, options.crop)
    shares = Shares.parse(options.split, options.seed)
    table = None if options.patients is None else PatientTable.read(options.patients)
    if options.stratify is not None and table is None:
        raise ConfigError(f"stratify: {options.stratify!r} is a column of the table of patients, and none is given")
    data_root = given_path(options.out).resolve()
    if options.names is not None:
        refuse_inside(options.names, data_root)
    arrays = tuple(_array_source(each, data_root / "prepared" / options.dataset) for each in inputs)
    outside = (data_root, *(source.folder for source in arrays))
    pseudonyms, key_file, key_is_new = load_key(options.key, outside, new_key=options.new_key)

    def keep_key() -> None:
        if key_is_new:
            save_key(pseudonyms, key_file)
            said = f"made the key {key_file}: pseudonyms are made with it; keep it, and keep it to yourself"
            listener(Notice("key", said))

    calling = Calling(pseudonyms, options.names_shown)
    found = find(inputs, arrays, match_by, listener)
    with calling.speaking_of(found, options.names):
        refuse_faults(found, options.on_error)
        rows, unfit = fitting_rows(found.rows, geometry)
        found.left_out.extend(("image", each) for each in unfit)
        if not rows:
            raise SliceError(nothing_found(inputs, found))
        patients = {row[0].group: pseudonyms.patient(row[0].group) for row in rows}
        splits = given_splits(rows)
        if splits is None or table is not None:
            splits = assign(patients, shares, table, options.stratify)
        order = [name for name, _ in shares.splits]
        tasks = make_tasks(rows, splits, order, geometry, pseudonyms)
        mapping = inputs[0].mapping or STORED
        plan = PreparePlan(arrays, geometry, tasks, _described(inputs, options, match_by, how, mapping, pseudonyms))
        asked = [name for name, share in shares.splits if share > 0]
        notice_splits(plan, [] if given_splits(rows) is not None or table is not None else asked, listener)
        _tell(found.notes, pseudonyms, listener)
        repeated = repeated_places(rows) if len(inputs) == 1 else None
        if repeated is not None:
            listener(Notice("repeated-places", repeated))
        result = make_prepared(
            plan,
            _facts(options, inputs, mapping, found, rows, pseudonyms),
            data_root,
            executor=as_executor(options.executor, options.workers),
            on_error=options.on_error,
            overwrite=options.overwrite,
            listener=listener,
            begun=keep_key,
        )
    if options.names is not None:
        write_names(options.names, names_of(rows, found, pseudonyms))
    if result.meta.num_identical:
        listener(
            Notice(
                "identical",
                f"{result.meta.num_identical} slices have the raw pixels of another one; "
                "source_digest in the manifests shows which",
            )
        )
    result.left_out.extend(f"{calling.left_out(each)} [{each.kind}]" for _, each in found.left_out)
    result.faults.extend(calling.left_out(each) for _, each in found.left_out if each.fault)
    return result


def _array_source(each: Input, output: Path) -> ArraySource:
    root = given_path(each.source)
    if not root.exists():
        raise UsageError(f"{str(root)!r} does not exist; give the folder of the raw CT that becomes {each.array}")
    source = ArraySource(each.array, each.reader, root.resolve(), each.mapping)
    if output.resolve().is_relative_to(source.folder):
        raise UsageError(
            f"the output {output.name} would lie in the source {source.root.name}; choose an --out that is not in it"
        )
    if source.root.is_relative_to(output.resolve()):
        raise UsageError(f"the source {source.root.name} lies in the output; raw CT does not belong there")
    return source


def _tell(notes: Sequence[SeriesNote], pseudonyms: Pseudonyms, listener: Listener) -> None:
    """Say what is odd, once for each kind; the meta has all."""
    for kind in dict.fromkeys(note.kind for note in notes):
        first, *more = [note for note in notes if note.kind == kind]
        others = f"; {len(more)} more series are like it, see prepare_meta.json" if more else ""
        listener(Notice(kind, f"{first.message} (series {pseudonyms.series(first.series)}{others})"))


def _described(
    inputs: Sequence[Input],
    options: CommonOptions,
    match_by: MatchBy,
    how: dict[str, Any],
    mapping: Mapping,
    pseudonyms: Pseudonyms,
) -> dict[str, Any]:
    """What decides the result, as plain values. Patterns can hold names: their pseudonyms stand here."""
    split_by = "table" if options.patients is not None and options.stratify is None else "hash"
    return {
        "source": inputs[0].reader.name,
        "arrays": [each.array for each in inputs],
        "series": [None if each.pattern is None else pseudonyms.series(each.pattern) for each in inputs],
        "match": match_by if len(inputs) > 1 else None,
        "mapping": mapping.as_dict(),
        "crop": None if options.crop is None else list(options.crop),
        "spacing_mm": None if options.spacing is None else list(options.spacing),
        "split_by": split_by,
        "split": list(options.split),
        "seed": options.seed,
        "stratified": options.stratify is not None,
        "key_id": pseudonyms.key_id,
        **how,
    }


def _facts(
    options: CommonOptions,
    inputs: Sequence[Input],
    mapping: Mapping,
    found: Found,
    rows: Sequence[Row],
    pseudonyms: Pseudonyms,
) -> Facts:
    left_out = tuple(
        LeftOutRow(pseudonyms.file(each.where), array, each.kind, written_reason(each))
        for array, each in found.left_out
    )
    used = {raw.series for row in rows for raw in row}
    notes = tuple(
        NoteInfo(kind=note.kind, series=pseudonyms.series(note.series), message=note.message)
        for note in found.notes
        if note.series in used
    )
    return Facts(
        options.dataset,
        inputs[0].reader.name,
        mapping.as_dict(),
        pseudonyms.key_id,
        left_out,
        notes,
        options.names_shown,
    )
