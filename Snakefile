"""ViaRL: learn which frames of a video to look at, from reward alone.

`snakemake --cores 2` makes the evaluation of the last cycle and the report; `snakemake --cores 2 results/cycle2/eval.json`
makes one file. `--configfile presets/smoke.yaml` overlays the default configuration. The README shows the way round.
"""

import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")

if set("{}") & set(str(workflow.basedir)):
    sys.exit(f"{workflow.basedir}: braces in a path have a meaning of their own for Snakemake; rename the folder")

LIBRARY = os.path.join(workflow.basedir, "workflow")  # this checkout's library, whatever else is installed
sys.path.insert(0, LIBRARY)

from viarl.config.files import check_files, typed
from viarl.config.runs import RUN, check_runs

try:
    profiles = [path for path in (Path("slurm/config.yaml"), *Path("profiles").glob("*/config.yaml")) if path.is_file()]
    check_files([Path("config.yaml"), *profiles, *workflow.config_settings.configfiles])
except ValueError as error:
    sys.exit(str(error))  # its lines say all there is to say


configfile: "config.yaml"


try:
    typed(config, workflow.config_settings.config)
    check_runs(config)
except ValueError as error:
    sys.exit(str(error))


wildcard_constraints:
    run=RUN,
    set=r"\w+",
    shard=r"\d+",
    role="selector|answerer|clip",
    c=r"\d+",


include: "workflow/rules/snakemake.smk"
include: "workflow/rules/files.smk"
include: "workflow/rules/settings.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/frames.smk"
include: "workflow/rules/selector.smk"
include: "workflow/rules/answerer.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    fetch_dataset,  # where the network is
    write_data_card,
    summarise_evaluation,
    judge_gain,
    copy_answers,
    compare_runs,
    make_report,
    sync_mlflow,
    plan,


rule all:
    """The evaluation of every cycle, and the report."""
    default_target: True
    input:
        summaries,
        data_card,
        "<results>/report/accuracy.png",


onstart:
    say_what_slurm_forgets()


onsuccess:
    # Short jobs leave their push to the end; a server that is away must not spoil the run.
    shell("python -m viarl.stages.sync_mlflow || true")


onerror:
    shell("python -m viarl.stages.sync_mlflow || true")
