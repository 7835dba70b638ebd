"""What people are told when something is wrong."""

import re


def one_line(error: BaseException | str, pattern: str) -> None:
    """Assert that the message has exactly one line, that it matches, and that it is short enough to read."""
    text = str(error)
    assert len(text.splitlines()) == 1 and len(text) < 600, text
    assert re.search(pattern, text), text
