"""From templates to pages: whatever text a program sent, what comes out is a page."""

from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape
from quart import Response

from trafficlight.http.headers import PAGE_POLICY
from trafficlight.text import duration, escape_control, single_line, size, truncate_middle, utc_time
from trafficlight.version import VERSION

_TEMPLATES = Path(__file__).parents[2] / "templates"
_LONGEST_TEXT = 64 << 10  # bytes of one text on a page


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "duration": duration,
        "one_line": single_line,
        "long": lambda text: truncate_middle(escape_control(text), _LONGEST_TEXT),
        "size": size,
        "slug": lambda name: str(name).replace(" ", "-"),
        "ticks": _ticks,
        "time": utc_time,
        "url": lambda part: quote(str(part), safe="/", errors="replace"),
    }
    environment.globals["version"] = VERSION
    return environment


def render(template: str, **values: Any) -> bytes:
    """Return a page as it travels. Needs no request, so a thread can do it."""
    return _environment().get_template(template).render(**values).encode("utf-8", "replace")


def page(content: bytes, status: int = 200) -> Response:
    """Return the answer that carries a page."""
    response = Response(content, status=status, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    response.headers["Vary"] = "Accept, Authorization, Cookie"
    return response


def _shown(value: Any) -> Any:
    """Make control characters and halves of surrogate pairs visible, wherever a template puts a text."""
    return escape_control(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _ticks(text: str) -> Markup:
    """Show what stands between backticks as code."""
    parts = [escape(escape_control(part)) for part in text.split("`")]
    return Markup().join(
        Markup("<code>{}</code>").format(part) if n % 2 else part for n, part in enumerate(parts)
    )
