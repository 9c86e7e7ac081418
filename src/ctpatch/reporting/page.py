"""The page: one file, with its styles, its programs and its data in it, that fetches nothing."""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from ctpatch.errors import CtPatchError
from ctpatch.reporting.facts import page_facts
from ctpatch.reporting.gallery import Gallery
from ctpatch.reporting.gather import AllWindows
from ctpatch.reporting.payload import make_payload
from ctpatch.reporting.still import as_built, make_still

MOST_BYTES = 10_000_000
"""A page is smaller than this."""
_STYLES = ("vendor/uPlot.min.css", "page.css", "parts.css")
_PROGRAMS = (
    "vendor/uPlot.iife.min.js",
    "data.js",
    "rules.js",
    "tones.js",
    "charts.js",
    "slices.js",
    "patches.js",
    "tune.js",
    "main.js",
)
_ROOM_FOR_TEXT = 100_000


def render_page(windows: AllWindows, gallery: Gallery, notes: Sequence[str] = ()) -> bytes:
    """The whole page, UTF-8.

    All text from data goes through Jinja's escaping, or through JSON and then into text nodes; a content security
    policy names the page's own programs by digest and forbids all others, and every connection.

    Args:
        windows: all windows.
        gallery: what is shown of pixels.
        notes: what the reader must know before all else.
    """
    import jinja2  # noqa: PLC0415

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    facts = page_facts(windows, gallery)
    facts["notes"] = [*notes, *facts["notes"]]
    styles = "\n".join(_asset(name) for name in _STYLES)
    licence = f"/* uPlot\n{_asset('vendor/uPlot.LICENSE')}*/"
    programs = "\n".join([licence, *(_asset(name) for name in _PROGRAMS)])
    still = make_still(windows, gallery)
    pictures = _pictures_bytes(gallery) + (len(still.picture) if still else 0)
    fixed_bytes = len(styles.encode()) + len(programs.encode()) + pictures + _ROOM_FOR_TEXT
    payload = make_payload(windows, gallery, MOST_BYTES - fixed_bytes)
    page = (
        environment.get_template("page.html.j2")
        .render(
            **facts,
            still=still,
            as_built=as_built(windows),
            policy=_policy(styles, programs),
            styles=_verbatim(styles),
            programs=_verbatim(programs),
            data=_verbatim(json_for_script(payload.content)),
            numbers=_verbatim(payload.numbers),
            tunable=payload.content["tunable"],
        )
        .encode()
    )
    if len(page) >= MOST_BYTES:
        raise CtPatchError(
            f"the report would have {len(page):,} bytes, wanted less than {MOST_BYTES:,}; show fewer slices (--slices)"
        )
    return page


def json_for_script(value: Any) -> str:
    """JSON that is safe between script tags: nothing in it can end them."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _verbatim(text: str) -> Any:
    """Text that is ours or made safe, and not to be escaped."""
    from markupsafe import Markup  # noqa: PLC0415

    return Markup(text)  # noqa: S704 - the callers above pass assets, base64 and JSON without angle brackets


def _policy(styles: str, programs: str) -> str:
    return (
        "default-src 'none'; img-src data:; "
        f"style-src '{_digest(styles)}'; script-src '{_digest(programs)}'; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@lru_cache
def _asset(name: str) -> str:
    # Line ends as in the repository, also where a checkout changed them: the policy digests them.
    return files("ctpatch.reporting").joinpath("assets", *name.split("/")).read_text("utf-8").replace("\r\n", "\n")


def _pictures_bytes(gallery: Gallery) -> int:
    """A size that the gallery's JSON does not exceed, found by making it once."""
    from ctpatch.reporting.blob import Blob  # noqa: PLC0415
    from ctpatch.reporting.gallery_content import gallery_content  # noqa: PLC0415

    return len(json_for_script(gallery_content(gallery, Blob())))
