"""What users call: raw CT of one kind to a prepared data set."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from ctpatch.errors import ConfigError, SliceError, UsageError
from ctpatch.events import Notice
from ctpatch.files.atomic import given_path
from ctpatch.format.prepared_meta import NoteInfo
from ctpatch.prepare.dividing import divide, shares_and_table
from ctpatch.prepare.doubts import doubt_messages, refuse_doubts
from ctpatch.prepare.geometry import Geometry
from ctpatch.prepare.inputs import find, nothing_found, refuse_faults
from ctpatch.prepare.naming.choose import name_arrays, refuse_with_names
from ctpatch.prepare.notices import notice_splits
from ctpatch.prepare.options import (
    CommonKeywords,
    CommonOptions,
    HuKeywords,
    SourcePath,
    common_options,
    refuse_unknown,
    shown_keywords,
)
from ctpatch.prepare.pairs import repeated_places
from ctpatch.prepare.part import ArraySource
from ctpatch.prepare.pipeline import PrepareResult, PrepareWork
from ctpatch.prepare.planning import PreparePlan, fitting_rows, make_tasks
from ctpatch.prepare.privacy.calling import Calling, written_reason
from ctpatch.prepare.privacy.key_check import key_doubts
from ctpatch.prepare.privacy.pseudonyms import Pseudonyms, lies_in, load_key, save_key
from ctpatch.prepare.readers import raw_format
from ctpatch.prepare.readers.base import RawFormat
from ctpatch.prepare.readers.dicom import Dicom, Planes
from ctpatch.prepare.readers.dicom import GroupBy as DicomGroup
from ctpatch.prepare.readers.lodopab import FilterName, Lodopab
from ctpatch.prepare.readers.nifti import Nifti
from ctpatch.prepare.readers.volume import GroupBy as VolumeGroup
from ctpatch.prepare.splits import Shares
from ctpatch.prepare.values import STORED, choose_mapping
from ctpatch.words import MatchBy
from ctpatch.work.executors.choose import as_executor
from ctpatch.work.executors.processes import ProcessExecutor
from ctpatch.work.run import make


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
    mask_series: str | None = None,
    naming: str | None = None,
    pair: str | None = None,
    structures: Sequence[str] | None = None,
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
        series: pattern (`*B70f*`) that the path, the description or the kernel of what becomes `image` is to fit.
        target_series: the same for `target`, in the second source where there is one, else in the first.
        mask_series: the same for `mask`, in the source of masks where there is one, else in the first.
        naming: how volumes and their masks are named: `nnunet`, `decathlon`, `amos`, `kits`, `btcv`,
            `totalsegmentator`, or `auto` to recognise one of them.
        pair: names of your own instead, as `{case}_0000.nii.gz={case}.nii.gz`.
        structures: which structures of TotalSegmentator become the labels 1, 2 and so on; None takes all, by name.
        match_by: partners by `position` (patient and place) or by `path`, where `case_0000.nii.gz` (nnU-Net) and
            `case.nii` are one path; None takes `position` for DICOM, else `path`.
        window: lowest and highest HU, mapped to 0 and 1; None takes -1024 and 3072.
        preset: `full`, `abdomen`, `lung`, `liver`, `brain` or `lodopab`, instead of a window.
        **common: see `ctpatch.prepare.options.CommonOptions`.

    Returns:
        What was done.

    Raises:
        ConfigError, UsageError: the call makes no sense; nothing was written.
        SliceError: a slice cannot be used (with `on_error="stop"`).
        DoubtfulValuesError: the values of a series are hardly HU (with `strict=True`).
        SourceManifestError: the table of patients breaks the rules.
        OutputConflictError: the output holds something else.
        OutputLockedError: another process writes it.
        SystemFailureError: the system refused a read or a write.
    """
    raw = raw_format(raw)() if isinstance(raw, str) else raw
    options = common_options(out, dataset, common)
    if options.follow_links:
        raw = replace(raw, follow_links=True)
    in_hu = {"target": target, "mask": mask, "series": series, "target_series": target_series,
             "mask_series": mask_series, "naming": naming, "pair": pair, "structures": structures,
             "match_by": match_by, "window": window, "preset": preset}  # fmt: skip
    if not raw.in_hu:
        refuse_unknown([name for name, value in in_hu.items() if value is not None], CommonOptions.__slots__)
    mapping = choose_mapping(window, preset) if raw.in_hu else STORED
    # Headers are looked at on this machine, by as many processes as are meant to work on it.
    workers = options.executor.workers if isinstance(options.executor, ProcessExecutor) else options.workers
    wanted = [(array, source, series if array == "image" else None) for array in raw.arrays()]
    if target is not None or target_series is not None:
        wanted.append(("target", source if target is None else target, target_series))
    if mask is not None or mask_series is not None:
        wanted.append(("mask", source if mask is None else mask, mask_series))
    if isinstance(raw, Dicom) and raw.labels_said() and (mask is None or mask_series is not None):
        raise ConfigError(
            f"{', '.join(raw.labels_said())}: for segmentations and structure sets; give their folder as mask, and no "
            "mask_series"
        )
    arrays = [
        ArraySource(
            array,
            raw.mask_reader(_existing(where, array), workers)
            if array == "mask" and pattern is None
            else raw.reader(array, workers),
            _existing(where, array),
            None if array == "mask" else mapping,
            pattern,
        )
        for array, where, pattern in wanted
    ]
    # Recorded where it is wanted alone: sets from before there were links that are followed stay complete.
    how = raw.recorded() | ({"follow_links": True} if raw.follow_links else {})
    if naming is not None or pair is not None or structures is not None:
        only = {"target": target, "series": series, "target_series": target_series, "mask_series": mask_series,
                "match_by": match_by}  # fmt: skip
        refuse_with_names([name for name, value in only.items() if value is not None])
        arrays, recorded = name_arrays(arrays, naming, pair, structures, options.listener)
        return prepare(arrays, options, "order", how | recorded)
    return prepare(arrays, options, match_by or raw.match_by, how)


@shown_keywords(like=prepare_raw)
def prepare_dicom(
    source: SourcePath,
    out: SourcePath,
    dataset: str,
    *,
    group_by: DicomGroup = "patient",
    keep_orientation: bool = False,
    allow_deflated: bool = False,
    assume_hu: bool = False,
    keep_reformats: bool = False,
    planes: Planes | None = None,
    kernel: str | None = None,
    thickness: str | None = None,
    labels: str | None = None,
    later_label_wins: bool = False,
    fraction: float | None = None,
    **options: Unpack[HuKeywords],
) -> PrepareResult:
    """Prepare the CT slices in a tree of DICOM files; see `prepare_raw` for what the options mean and what is raised.

    `group_by` says what must not be divided between splits. `keep_orientation` leaves prone and decubitus slices as
    they are stored; `allow_deflated` reads deflated files, within bounds. `mask` is a source of DICOM
    segmentations or RT structure sets, or of masks that are stored as CT slices.

    `assume_hu` takes 1 for a RescaleSlope and 0 for a RescaleIntercept that are missing; otherwise such a file is a
    fault. `keep_reformats` prepares reformats and projections too, which were made from slices.

    `planes` takes slices of one plane, or of `all`; None leaves out what is not axial where a study has axial slices
    too. `kernel` is a pattern of the ConvolutionKernel, `thickness` a range of the SliceThickness in mm, as `0..3`.
    What they leave out is on record in `left_out.csv`. Masks are not chosen by these three.

    `labels` (`"1=liver,2=*tumour*"`) says which segments or ROIs become which label, by patterns of their names;
    without it each keeps its number. With `later_label_wins` the later one holds where they overlap; otherwise that is
    a fault. `fraction` is the share from which a pixel of a fractional segment is marked.
    """
    raw = Dicom(
        group_by,
        keep_orientation,
        allow_deflated,
        assume_hu,
        keep_reformats,
        planes,
        kernel,
        thickness,
        labels,
        later_label_wins,
        fraction,
    )
    return prepare_raw(raw, source, out, dataset, **options)


@shown_keywords(like=prepare_raw)
def prepare_nifti(
    source: SourcePath,
    out: SourcePath,
    dataset: str,
    *,
    group_by: VolumeGroup = "folder",
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
    """Prepare the HDF5 files of LoDoPaB-CT, in the splits they come in; see `prepare_raw` for what the options mean.

    With `pairs`, filtered back-projections of the observations become `image`, the ground truth `target`. Their filter
    is `filter_name`: `ramp`, `shepp-logan`, `cosine`, `hamming` or `hann`; `frequency_scaling` is the share of the
    frequencies that it lets pass, above 0 and at most 1. `keep_orientation` leaves images as they are stored:
    transposed, the patient on the side.

    Raises:
        ConfigError: no such filter or scaling, or one is given and no `pairs` that it could be for.
        CtPatchError: as `prepare_raw`.
    """
    raw = Lodopab(pairs, filter_name, frequency_scaling, keep_orientation)
    return prepare_raw(raw, source, out, dataset, **options)


def prepare(
    arrays: Sequence[ArraySource], options: CommonOptions, match_by: MatchBy, how: dict[str, Any]
) -> PrepareResult:
    """Prepare what readers find, `image` first; `how` goes on record as what else decides the result, by name."""
    started = time.perf_counter()
    listener = options.listener
    geometry = Geometry(options.spacing, options.crop)
    shares, table = shares_and_table(options)
    data_root = given_path(options.out).resolve()
    folder = data_root / "prepared" / options.dataset
    _refuse_overlap(arrays, folder)
    if options.names is not None and lies_in(names := given_path(options.names), data_root):
        raise UsageError(
            f"{names.name} would say who is who, in the folder that is written; choose a --names elsewhere"
        )
    pseudonyms, keep_key = _load_key(options, (data_root, *(source.root for source in arrays)))
    calling = Calling(pseudonyms, options.names_shown, options.names)
    found = find(arrays, match_by, listener, names_shown=options.names_shown)
    with calling.speaking_of(found):
        refuse_faults(found, options.on_error)
        rows, unfit = fitting_rows(found.rows, geometry)
        found.left_out.extend(("image", each) for each in unfit)
        if not rows:
            raise SliceError(nothing_found(arrays, found))
        patients = {row[0].group: pseudonyms.patient(row[0].group) for row in rows}
        splits, asked = divide(rows, patients, shares, table, options, pseudonyms)
        used = {raw.series for row in rows for raw in row}
        plan = PreparePlan(
            options.dataset,
            tuple(arrays),
            geometry,
            make_tasks(rows, splits, [name for name, _ in shares.splits], geometry, pseudonyms),
            _described(arrays, options, match_by, shares, pseudonyms) | how | found.record,
            [(pseudonyms.file(left.where), array, left.kind, written_reason(left)) for array, left in found.left_out],
            [
                NoteInfo(kind=note.kind, series=pseudonyms.series(note.series), message=note.message)
                for note in found.notes
                if note.series in used
            ],
        )
        notice_splits(plan, asked, listener, options.names_shown)
        calling.tell_notes([note for note in found.notes if note.series in used], rows, listener)
        if len(arrays) == 1 and (repeated := repeated_places([row[0] for row in rows])):
            listener(Notice("repeated-places", repeated))
        work = PrepareWork(plan, folder, options.on_error, calling, keep_key, strict=options.strict)
        executor = as_executor(options.executor, options.workers)
        made = make(work, executor, listener, overwrite=options.overwrite)
    calling.write_names(rows, found)
    if options.strict:
        refuse_doubts(made.meta.notes, finished=True)
    for message in doubt_messages(made.meta.notes, calling.by_pseudonym(rows)):
        listener(Notice("doubtful-values", message))
    if count := made.meta.num_identical:
        said = f"{count} slices have the raw pixels of another one; source_digest in the manifests shows which"
        listener(Notice("identical", said))
    left_out = [left for _, left in found.left_out]
    faults = [*work.unusable, *(left for left in left_out if left.fault)]
    return PrepareResult(
        folder,
        "prepared" if made.outcome == "made" else made.outcome,
        made.meta,
        time.perf_counter() - started,
        [calling.left_out(each) for each in faults],
        [f"{calling.left_out(each)} [{each.kind}]" for each in left_out],
        calling.lines(faults),
        calling.lines(left_out),
    )


def _existing(source: SourcePath, array: str) -> Path:
    root = given_path(source)
    if not root.exists():
        raise UsageError(
            f"{str(root)!r} does not exist; give the folder or the file of the raw CT that becomes {array}"
        )
    return root.resolve()


def _load_key(options: CommonOptions, outside: tuple[Path, ...]) -> tuple[Pseudonyms, Callable[[], None]]:
    """The pseudonyms, and what keeps their key where it is new; says what is to be said of one that is there."""
    pseudonyms, file, is_new = load_key(options.key, outside, new_key=options.new_key)

    def keep() -> None:
        if is_new:
            save_key(pseudonyms, file)
            said = f"made the key {file}: pseudonyms are made with it; keep it, and keep it to yourself"
            options.listener(Notice("key", said))

    if not is_new:
        for doubt in key_doubts(file, pseudonyms.key):
            options.listener(doubt)
    return pseudonyms, keep


def _refuse_overlap(arrays: Sequence[ArraySource], folder: Path) -> None:
    output, name = folder.resolve(), folder.name
    for source in arrays:
        raw = source.root.name
        if output.is_relative_to(source.root):
            raise UsageError(f"the output {name} would lie in the source {raw}; choose an --out that is not in it")
        if source.root.is_relative_to(output):
            raise UsageError(f"the source {raw} lies in the output; raw CT does not belong there")


def _described(
    arrays: Sequence[ArraySource], options: CommonOptions, match_by: MatchBy, shares: Shares, pseudonyms: Pseudonyms
) -> dict[str, Any]:
    """What decides the result, as plain values. Patterns can hold names: their pseudonyms stand here."""
    described = {
        "source": arrays[0].reader.name,
        "arrays": [source.array for source in arrays],
        "series": [None if source.pattern is None else pseudonyms.series(source.pattern) for source in arrays],
        "match": match_by if len(arrays) > 1 else None,
        "mapping": (arrays[0].mapping or STORED).as_dict(),
        "crop": None if options.crop is None else list(options.crop),
        "spacing_mm": None if options.spacing is None else list(options.spacing),
        "split_by": "table" if options.patients is not None and options.stratify is None else "hash",
        "split": list(options.split),
        "seed": options.seed,
        "stratified": options.stratify is not None,
        "key_id": pseudonyms.key_id,
    }
    # On record where they are asked for alone: sets from before there were such options stay complete.
    if shares.exact:
        described["exact"] = True
    if shares.folds:
        described |= {"folds": len(shares.splits), "split": []}
    return described
