"""Where a loader's mean and standard deviation come from, and what its set's values stand for in HU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctpatch.errors import ConfigError, FormatError, IncompleteError, UsageError
from ctpatch.files.atomic import given_path
from ctpatch.format.hu_scale import HuScale
from ctpatch.format.meta import PatchMeta
from ctpatch.format.prepared_meta import prepared_scale
from ctpatch.format.splits import PATCHES, SplitSource
from ctpatch.loading.options import HasValues
from ctpatch.loading.values import ChosenMaps, given_normalization, hu_maps, normalization_from
from ctpatch.reading.source import SourceSlices, finished_set

TRAIN = "train"


def maps_for_set(options: HasValues, names: Sequence[str], meta: PatchMeta, sources: SourceSlices) -> ChosenMaps:
    """What maps the values of a patch set's arrays; labels stay as they are.

    Raises:
        ConfigError: an option makes no sense, or what it needs is not on record.
    """
    if options.normalize is None and options.hu is None:
        return ChosenMaps()
    values = [name for name in names if not meta.arrays[name].labels]
    user, train = f"{meta.dataset}/{meta.split}", sources.folder.parent / TRAIN
    return _chosen(options, values, user, meta, train, _scale_of_set(meta, sources))


def maps_for_split(options: HasValues, values: Sequence[str], source: SplitSource) -> ChosenMaps:
    """The same for the arrays `values` of a prepared split, none of which holds labels.

    The set of the split train is looked for where a build puts it.
    """
    if options.normalize is None and options.hu is None:
        return ChosenMaps()
    train = source.data_root / PATCHES / source.dataset / TRAIN
    return _chosen(options, values, source.name, None, train, prepared_scale(source.manifest))


def maps_for_array(options: HasValues, name: str, user: str) -> ChosenMaps:
    """The same for an array of pixels that belongs to no set; messages call it `user`.

    Raises:
        ConfigError: what is asked for needs a set, or makes no sense.
    """
    if options.hu is not None:
        raise ConfigError(
            f"hu: ctpatch cannot tell what the values of {user} stand for in HU, since it is an array and belongs to "
            "no set; give the set, or map the values yourself"
        )
    asked = options.normalize
    if asked is None:
        return ChosenMaps()
    if isinstance(asked, tuple | list):
        return given_normalization(asked, [name])
    if asked == TRAIN:
        raise ConfigError(
            f"normalize: 'train' means the set beside the one that is read, and {user} is an array; give a set of the "
            "split train, its folder, or (mean, std)"
        )
    return normalization_from(_source_of(asked, None, Path()), [name], user)


def _chosen(
    options: HasValues,
    arrays: Sequence[str],
    user: str,
    meta: PatchMeta | None,
    train: Path,
    scale: HuScale | None,
) -> ChosenMaps:
    asked = options.normalize
    if options.hu is not None:
        if asked is not None:
            raise ConfigError("normalize and hu both decide the values: give one of them")
        return hu_maps(options.hu, scale, arrays, user)
    if isinstance(asked, tuple | list):
        return given_normalization(asked, arrays)
    source = _source_of(asked, meta, train)
    known = None if source.hu is None or scale is None else source.hu == scale
    if known is False or (meta is not None and known is None and source.value_range != meta.value_range):
        raise ConfigError(
            f"normalize: values of {source.dataset}/{source.split} are on another scale than those of {user}; give a "
            "set that was prepared the same way, or (mean, std)"
        )
    return normalization_from(source, arrays, user)


def _source_of(asked: Any, meta: PatchMeta | None, train: Path) -> PatchMeta:
    """The meta of the set that mean and standard deviation are taken from."""
    found = getattr(asked, "meta", None)
    if isinstance(found, PatchMeta):
        return found
    if asked == TRAIN and meta is not None and meta.split == TRAIN:
        return meta
    try:
        path = train if asked == TRAIN else given_path(asked)
        _, source = finished_set(path)
    except TypeError:
        raise ConfigError(
            f"normalize: wanted 'train', a set of the split train or its folder, or (mean, std), got {asked!r}"
        ) from None
    except (UsageError, IncompleteError, FormatError) as error:
        where = f" beside this one ({path.parent.name}/{path.name})" if asked == TRAIN else ""
        raise ConfigError(
            f"normalize: there is no finished set of the split train{where}: {error.message}; build it, or give its "
            "folder or (mean, std)"
        ) from None
    if asked == TRAIN and (source.split != TRAIN or (meta is not None and source.dataset != meta.dataset)):
        raise ConfigError(
            f"normalize: the set beside this one is {source.dataset}/{source.split}, wanted the split train of the "
            "same dataset; give the folder that you mean"
        )
    return source


def _scale_of_set(meta: PatchMeta, sources: SourceSlices) -> HuScale | None:
    """What a set's values stand for: from its meta, else from its prepared slices where these are there."""
    if meta.hu is not None:
        return meta.hu
    try:
        return prepared_scale(Path(sources.resolve(meta.source_manifest)))
    except (UsageError, FormatError):
        return None
