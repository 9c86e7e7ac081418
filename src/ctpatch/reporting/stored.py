"""Whether a set's pixel files are there in full, without reading a pixel."""

from ctpatch.reading.patchset import AnySet


def stored_note(ps: AnySet) -> str | None:
    """A sentence on pixel files that are missing or not as long as they were written; None where all is well."""
    faulty: list[str] = []
    files = concerned = 0
    for file in ps.layout.pixel_files(ps.manifest, ps.slices, ps.meta.arrays, ps.patch_size):
        files += 1
        if file.damage(ps.resolve_patch(file.path or "")) is not None:
            faulty.append(str(file.path))
            concerned += file.patches
    if not faulty:
        return None
    return (
        f"{ps.meta.dataset}/{ps.meta.split}: {len(faulty):,} of {files:,} pixel files "
        f"{'is' if len(faulty) == 1 else 'are'} missing or damaged, with {concerned:,} "
        f"patch{'' if concerned == 1 else 'es'} in {'it' if len(faulty) == 1 else 'them'}; the first is "
        f"{faulty[0][:200]}. Run ctpatch verify."
    )
