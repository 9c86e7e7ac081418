"""The whole job on phantom CT: prepare, plan, build, verify, read, look."""

from pathlib import Path

from ctpatch.checking.verify import verify
from ctpatch.cli.screen import ConsoleListener, build_summary, plan_text, print_out, shown_path, verify_text
from ctpatch.config import PatchConfig
from ctpatch.cutting.api import build
from ctpatch.cutting.plan import plan
from ctpatch.cutting.preview import preview_rules
from ctpatch.errors import EXIT_DATA, EXIT_DONE, UsageError
from ctpatch.phantom.slices import write_phantom
from ctpatch.reading.patchset import open_set
from ctpatch.reporting import check_installed, report

_RULE = "air: air_fraction > 0.6"


def run_demo(folder: Path) -> int:
    """Make the demo in a folder and say what was made; returns the exit status."""
    root = folder.resolve()
    config = PatchConfig(drop=(_RULE,))
    with ConsoleListener() as listener:
        splits = write_phantom(root)
        dataset = splits[0].parent
        print_out(f"1. phantom CT, low and full dose, three splits by patient: {shown_path(dataset)}\n")
        print_out("2. plan")
        for each in plan(dataset, config=config):
            print_out(plan_text(each, preview_rules(each, listener=listener), "files"))
        print_out("\n3. build")
        results = build(dataset, config=config, listener=listener)
        for result in results:
            print_out(build_summary(result))
        print_out("\n4. verify --deep")
        reports = [(verify(result.folder, deep=True, listener=listener), result.folder) for result in results]
        for report, where in reports:
            print_out(verify_text(report, where))
    ps = open_set(results[0].folder)
    place = shown_path(results[0].folder)
    print_out(
        f"\n5. read\n  >>> import ctpatch\n  >>> ps = ctpatch.open({place!r})\n  >>> len(ps), ps[0]['image'].shape"
    )
    print_out(f"  ({len(ps)}, {ps.read([0], arrays='image')[0].shape})")
    print_out(f"\n6. report\n  {_report(root, [result.folder for result in results])}")
    return EXIT_DONE if all(report.ok for report, _ in reports) else EXIT_DATA


def _report(root: Path, folders: list[Path]) -> str:
    """Write the report, and say where it is; without the libraries for it, say how to get them."""
    try:
        check_installed()
    except UsageError as error:
        return error.message
    page = report(folders, root / "report.html")
    return f"open {shown_path(page)} in a browser: the sets, and sliders for the rules"
