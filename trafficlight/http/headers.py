"""The headers that keep a browser from doing more with an answer than it should."""

from quart import Quart, Response, request

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""For our own pages: nothing inline, nothing from elsewhere."""

FILE_POLICY = (
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'; sandbox"
)
"""For what clients uploaded: it may be looked at, and can do nothing."""


def install(app: Quart) -> None:
    """Put the headers on every answer of an application; a view that set its own keeps them."""

    @app.after_request
    async def guard(response: Response) -> Response:
        if request.path.startswith("/client/"):  # JSON for programs, and many of them
            response.headers["X-Content-Type-Options"] = "nosniff"
            return response
        for name, value in (
            ("Content-Security-Policy", PAGE_POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "same-origin"),
            ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cache-Control", "no-cache"),
        ):
            response.headers.setdefault(name, value)
        return response
