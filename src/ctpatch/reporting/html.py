"""Pages of one file each: a template with its styles and programs in it, that fetches nothing."""

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

MOST_BYTES = 10_000_000
"""A page is smaller than this."""


def render(template: str, styles: str, programs: str, **values: Any) -> bytes:
    """A page, UTF-8.

    All text goes through Jinja's escaping, save what `verbatim` made. A content security policy names the page's own
    styles and programs by digest and forbids all others, and every connection.

    Args:
        template: name of its template.
        styles: CSS.
        programs: JavaScript; empty for a page that has none.
        values: what the template names.
    """
    import jinja2  # noqa: PLC0415 - an extra

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return (
        environment.get_template(template)
        .render(policy=_policy(styles, programs), styles=verbatim(styles), programs=verbatim(programs), **values)
        .encode()
    )


def verbatim(text: str) -> Any:
    """Text that is ours or made safe, and not to be escaped."""
    from markupsafe import Markup  # noqa: PLC0415

    return Markup(text)  # noqa: S704 - callers pass assets, base64 and JSON without angle brackets


def assets(names: Sequence[str]) -> str:
    """The text of several files that come with the package, one after the other."""
    return "\n".join(asset(name) for name in names)


@lru_cache
def asset(name: str) -> str:
    """The text of a file that comes with the package."""
    # Line ends as in the repository, also where a checkout changed them: the policy digests them.
    return files("ctpatch.reporting").joinpath("assets", *name.split("/")).read_text("utf-8").replace("\r\n", "\n")


def _policy(styles: str, programs: str) -> str:
    scripts = f"script-src '{_digest(programs)}'; " if programs else ""
    own = f"img-src data:; style-src '{_digest(styles)}'; {scripts}"
    return f"default-src 'none'; {own}base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
