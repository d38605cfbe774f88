"""Texts of tests, of which nobody knows how long they are or what is in them."""

MESSAGE_LIMIT = 10_000
"""Characters of a message that are kept: a page shows it, and reports of thousands of cases have it."""

TRACEBACK_LIMIT = 100_000


def truncate(text: str, most: int) -> str:
    """Return a text that every report can hold: without half characters, and not too long.

    :param most: characters that are kept, three quarters of them from its beginning.
    """
    if len(text) > most:
        first, last = most * 3 // 4, most // 4
        left_out = f"\n[... {len(text) - first - last:,} characters left out ...]\n"
        text = text[:first] + left_out + text[-last:]
    # A lone surrogate is no character, and no encoding has it.
    return text.encode("utf-8", "replace").decode("utf-8")
