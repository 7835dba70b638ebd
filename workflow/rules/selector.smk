"""The selector: the questions that it is trained on, its training by reinforcement, after labels if it is to start from
them, and what it selects.

Inputs:  the training set's questions, frames and similarities; the untouched answerer for the filter, the models after the
         previous cycle for the training.
Outputs: <results>/{run}filter/train_items.jsonl; <results>/{run}filter/report.json (how many each rule drops: the data card);
         <results>/{run}cycle{c}/selector/ (an ordinary checkpoint folder); <results>/{run}cycle{c}/selected/{set}.parquet.
Usual order: filter_guessable; initialise_selector where selector.start says so (else cycle 0 has the untouched selector and
no folder); then in each cycle train_selector, and select_frames on the training set (for answerer.smk) and on each benchmark.
Working files: <results>/{run}cycle{c}/checkpoints/selector/, undeclared, from which an interrupted training resumes.
"""


rule filter_guessable:
    """Drop training questions that are answered without looking, or never (setting filter.rule)."""
    input:
        **needs(
            "filter_guessable",
            questions=of("questions", set=training_set),
            frames=of("frames", set=training_set),
            clip=of("similarities", set=training_set),
            answerer=of("base_model", role="answerer"),
        ),
    output:
        questions="<results>/{run}filter/train_items.jsonl",
        report="<results>/{run}filter/report.json",
    log:
        "<results>/logs/filter_guessable/{run}all.log",
    benchmark:
        "<results>/benchmarks/filter_guessable/{run}all.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(3000),
        runtime=growing(480),
    params:
        settings=settings("filter_guessable", section("seed", "filter"), pick("frames", "selected"), answerer),
        answerer=model("answerer"),
    shell:
        "python -m viarl.stages.filter_guessable --settings {params.settings:q} --items {input.questions:q}"
        " --manifests {input.frames:q} --scores {input.clip:q} --answerer-model {params.answerer:q}"
        " --output {output.questions:q} --report {output.report:q} 2>&1 | tee {log:q}"


rule initialise_selector:
    """Tune the base selector on labelled frames, in place of an untouched one in cycle 0."""
    input:
        **needs(
            "initialise_selector",
            questions=of("kept_questions"),
            frames=of("frames", set=training_set),
            clip=label_sources,
            selector=of("base_model", role="selector"),
        ),
        labelled=made_if(
            initialised, "selector.start.labels is none: cycle 0 has the untouched selector, nothing to make"
        ),
    output:
        model="<results>/{run}cycle{c}/selector/model.safetensors",
        hashes="<results>/{run}cycle{c}/selector/hashes.json",
    log:
        "<results>/logs/initialise_selector/{run}cycle{c}.log",
    benchmark:
        "<results>/benchmarks/initialise_selector/{run}cycle{c}.tsv"
    wildcard_constraints:
        c="0",
    conda:
        "../../envs/viarl.yaml"
    threads: processes
    resources:
        mem_mb=growing(4000),
        runtime=growing(1440),
    params:
        settings=settings("initialise_selector", section("seed"), pick("frames", "selected", "number_pixels"), start),
        selector=model("selector"),
        features=features,
    shell:
        "python -m viarl.training.launch viarl.stages.initialise_selector --settings {params.settings:q} --items {input.questions:q}"
        " --manifests {input.frames:q} --scores {input.clip:q} --selector-model {params.selector:q}"
        " --features {params.features:q} --output {output.model:q} 2>&1 | tee {log:q}"


rule train_selector:
    """Train the selector by REINFORCE++ on the reward of its completions, the answerer frozen."""
    input:
        **needs(
            "train_selector",
            questions=of("kept_questions"),
            frames=of("frames", set=training_set),
            selector=previous("selector"),
            answerer=previous("answerer"),
        ),
    output:
        model="<results>/{run}cycle{c}/selector/model.safetensors",
        hashes="<results>/{run}cycle{c}/selector/hashes.json",
    log:
        "<results>/logs/train_selector/{run}cycle{c}.log",
    benchmark:
        "<results>/benchmarks/train_selector/{run}cycle{c}.tsv"
    wildcard_constraints:
        c=r"[1-9]\d*",
    conda:
        "../../envs/viarl.yaml"
    threads: processes
    resources:
        mem_mb=growing(6000),
        runtime=growing(1440),
    params:
        settings=settings(
            "train_selector",
            section("seed", "reward"),
            pick("frames", "selected", "number_pixels"),
            training,
            answerer,
            cycle,
        ),
        selector=model("selector"),
        answerer=model("answerer"),
        features=features,
    shell:
        "python -m viarl.training.launch viarl.stages.train_selector --settings {params.settings:q} --items {input.questions:q}"
        " --manifests {input.frames:q} --selector-model {params.selector:q} --answerer-model {params.answerer:q}"
        " --features {params.features:q} --output {output.model:q} 2>&1 | tee {log:q}"


rule select_frames:
    """Let a cycle's selector pick frames for every question of a set, greedily and in one seeded sample."""
    input:
        **needs("select_frames", questions=questions_of, frames=of("frames"), selector=of("selector")),
    output:
        selected="<results>/{run}cycle{c}/selected/{set}.parquet",
    log:
        "<results>/logs/select_frames/{run}cycle{c}.{set}.log",
    benchmark:
        "<results>/benchmarks/select_frames/{run}cycle{c}.{set}.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(3000),
        runtime=growing(480),
    params:
        settings=settings(
            "select_frames",
            section("seed"),
            selector,
            pick("frames", "selected", "number_pixels"),
            sampling,
        ),
        selector=model("selector"),
        features=features,
    shell:
        "python -m viarl.stages.select_frames --settings {params.settings:q} --items {input.questions:q}"
        " --manifests {input.frames:q} --selector-model {params.selector:q} --features {params.features:q}"
        " --output {output.selected:q} 2>&1 | tee {log:q}"
