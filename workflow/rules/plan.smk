"""What the configuration will need, before anything runs.

Inputs:  the configuration alone; sizes of imported data sets and config.json of model folders where they are there.
Outputs: none: the plan is printed, and kept in <results>/logs/plan/all.log.
Usual order: first; `snakemake plan --configfile …` after each change of models, frames or batches.
"""


def planned():
    """The settings of the plan: the configuration, where models lie, and how large data sets are."""
    folders = {role: workflow.pathvars.apply(f"<data>/stand_ins/{role}") for role in ("selector", "answerer")}
    models = {
        role: pinned(config[role]) if maker(config, "base_model", {"role": role}) == "" else folders[role]
        for role in folders
    }
    sets = {}
    for name in [training_set(config), *config["benchmarks"]]:
        sets[name] = workflow.pathvars.apply(f"<data>/sets/{name}")
        if name in SPLITS:
            videos = config["needle"]["videos"][SPLITS[name]]
            sets[name] = [videos, videos * config["needle"]["questions_per_video"]]
    known = without(config, ["ablations", "compare", "pathvars", "tracking"])
    return {"configuration": known, "models": models, "sets": sets, "training_set": training_set(config)}


rule plan:
    """Print an estimate of GPU memory, time and disk of every stage, with formulas (it runs whenever asked)."""
    log:
        "<results>/logs/plan/all.log",
    conda:
        "../../envs/viarl.yaml"
    params:
        settings=lambda w: json.dumps(planned()),
    shell:
        "python -m viarl.stages.plan --settings {params.settings:q} 2>&1 | tee {log:q}"
