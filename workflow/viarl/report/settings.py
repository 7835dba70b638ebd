"""Settings of the report."""

from viarl.sections import Whole, key, section


@section
class ReportSettings:
    """What the report shows."""

    filmstrips: Whole = key("test questions drawn with their frames")
