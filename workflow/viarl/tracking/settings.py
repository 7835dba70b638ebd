"""Where MLflow listens."""

from viarl.sections import Text, key, section


@section
class MlflowSettings:
    """MLflow: a mirror of the records that every stage writes."""

    uri: Text | None = key("null: SQLite under the results root; or a server, http://…", counts=False)
    experiment: Text = key(
        "begins the experiment's name; the path of the results root ends it, so that two roots never mix", counts=False
    )
