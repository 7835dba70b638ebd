"""The selector: its training by reinforcement, and what it selects.

Inputs:  the filtered training questions, frames; the models after the previous cycle.
Outputs: <results>/cycle{c}/selector/ (an ordinary checkpoint folder); <results>/cycle{c}/selected/{set}.parquet.
Usual order: train_selector, then select_frames on the training set (for answerer.smk) and on each benchmark.
Working files: <results>/cycle{c}/checkpoints/selector/, undeclared, from which an interrupted training resumes.
"""


rule train_selector:
    """Train the selector by REINFORCE++ on the reward of its completions, the answerer frozen."""
    input:
        questions=items_of(TRAINING_SET),
        frames=every_shard("<data>/frames/{set}/{shard}.json", TRAINING_SET),
        selector=previous_model_file("selector"),
        answerer=previous_model_file("answerer"),
    output:
        model="<results>/cycle{c}/selector/model.safetensors",
    log:
        "<results>/logs/train_selector/cycle{c}.log",
    benchmark:
        "<results>/benchmarks/train_selector/cycle{c}.tsv"
    wildcard_constraints:
        c=r"[1-9]\d*",
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=6000,
        runtime=4320,
    params:
        settings=settings("train_selector", SEED, FRAMES, TRAINING, ANSWERER, cycle),
        selector=model("selector"),
        answerer=model("answerer"),
        features=workflow.pathvars.apply(f"<data>/features/{TRAINING_SET}"),
        code=fingerprint("viarl.stages.train_selector"),
    shell:
        "python -m viarl.stages.train_selector --settings {params.settings:q} --items {input.questions:q}"
        " --manifests {input.frames:q} --selector-model {params.selector:q} --answerer-model {params.answerer:q}"
        " --features {params.features:q} --output {output.model:q} 2>&1 | tee {log:q}"


rule select_frames:
    """Let a cycle's selector pick frames for every question of a set, greedily and in one seeded sample."""
    input:
        questions=lambda w: items_of(w.set),
        frames=every_shard("<data>/frames/{set}/{shard}.json"),
        selector=model_file("selector"),
    output:
        selected="<results>/cycle{c}/selected/{set}.parquet",
    log:
        "<results>/logs/select_frames/cycle{c}.{set}.log",
    benchmark:
        "<results>/benchmarks/select_frames/cycle{c}.{set}.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=3000,
        runtime=480,
    params:
        settings=settings("select_frames", SEED, SELECTOR, FRAMES, pick("evaluation", "temperature")),
        selector=model("selector"),
        features=workflow.pathvars.apply("<data>/features/{set}"),
        code=fingerprint("viarl.stages.select_frames"),
    shell:
        "python -m viarl.stages.select_frames --settings {params.settings:q} --items {input.questions:q}"
        " --manifests {input.frames:q} --selector-model {params.selector:q} --features {params.features:q}"
        " --output {output.selected:q} 2>&1 | tee {log:q}"
