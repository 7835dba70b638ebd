"""The progress line: at once, not too often, at the end; and a reader that goes away ends nothing."""

import io
import os

from processes import in_child
from viarl.progress import Progress, say


def test_a_line_at_once_and_one_at_the_end() -> None:
    stream = io.StringIO()
    progress = Progress("videos", 300, interval=60.0, stream=stream)
    assert stream.getvalue() == "videos: 0/300\n"
    for _ in range(299):
        progress.advance()
    assert stream.getvalue().count("\n") == 1
    progress.advance(1, "2 bad")
    last = stream.getvalue().splitlines()[-1]
    assert last.startswith("videos: 300/300, ") and last.endswith("/s, 0 s remaining; 2 bad")


def test_nothing_to_do_says_nothing() -> None:
    stream = io.StringIO()
    Progress("videos", 0, stream=stream).advance(0, "known before")
    assert stream.getvalue() == ""


def test_a_reader_that_has_gone_ends_nothing() -> None:
    def child() -> None:
        reader, writer = os.pipe()
        os.dup2(writer, 2)
        os.close(reader)
        for line in ("first", "second"):
            say(line)

    assert in_child(child) == 0
