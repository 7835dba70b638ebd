"""Data sets and stand-in models.

Inputs:  the configuration alone; for `local`, the user's folder of videos and file of questions; for data sets on a hub
         (huggingface.co or HF_ENDPOINT; HF_TOKEN where they are gated) the network.
Outputs: <data>/{run}sets/{set}/items.jsonl and videos.jsonl; of sets from a hub manifest.json (every file: size, SHA-256,
         origin) and data_card.json (found, kept, dropped by reason) besides; <results>/{run}data_card.json of all sets that
         are used; <data>/{run}stand_ins/{role}/, ordinary checkpoint folders; <data>/{run}own_models/{role}.json, size and
         SHA-256 of each file of a model's folder that the configuration names.
Usual order: make_needle, import_local or fetch_dataset, then frames.smk; build_stand_ins beside them; write_data_card after
filter_guessable.
Working files, undeclared, for all sets, runs and ablations: <data>/hub/<owner>--<name>/, what was downloaded;
<data>/own_hashes.json, the hashes of files of yours, each of which is read once.
"""


rule make_needle:
    """Generate one set of needle videos with their questions and evidence."""
    output:
        questions="<data>/{run}sets/{set}/items.jsonl",
        videos="<data>/{run}sets/{set}/videos.jsonl",
    log:
        "<results>/logs/make_needle/{run}{set}.log",
    benchmark:
        "<results>/benchmarks/make_needle/{run}{set}.tsv"
    wildcard_constraints:
        set="|".join(SPLITS),
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(1500),
        runtime=growing(60),
    params:
        settings=settings("make_needle", pick("needle", "seed", "questions_per_video"), needle_set),
    shell:
        "python -m viarl.stages.make_needle --settings {params.settings:q}"
        " --items {output.questions:q} --videos {output.videos:q} 2>&1 | tee {log:q}"


checkpoint import_local:
    """List the user's own videos and questions as a set; nothing follows where what they contain is as it was."""
    input:
        checked=own_questions,
    output:
        questions="<data>/{run}sets/{set}/items.jsonl",
        videos="<data>/{run}sets/{set}/videos.jsonl",
    log:
        "<results>/logs/import_local/{run}{set}.log",
    benchmark:
        "<results>/benchmarks/import_local/{run}{set}.tsv"
    wildcard_constraints:
        set="local|local_train|local_validation",
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(1500),
        runtime=growing(60),
    params:
        settings=settings(
            "import_local", pick("local", "validation_share", "seed"), lambda config, w: {"set": w["set"]}
        ),
        folder=own("folder"),
        questions=own("questions"),
        known=own_hashes,
        state=own_state,
    shell:
        "python -m viarl.stages.import_local --settings {params.settings:q} --folder={params.folder:q}"
        " --questions={params.questions:q} --known-hashes {params.known:q} --items {output.questions:q}"
        " --videos {output.videos:q} 2>&1 | tee {log:q}"


rule fetch_dataset:
    """Download a set: its questions, and out of their archives the videos that they ask about."""
    output:
        questions="<data>/{run}sets/{set}/items.jsonl",
        videos="<data>/{run}sets/{set}/videos.jsonl",
        manifest="<data>/{run}sets/{set}/manifest.json",
        card="<data>/{run}sets/{set}/data_card.json",
    log:
        "<results>/logs/fetch_dataset/{run}{set}.log",
    benchmark:
        "<results>/benchmarks/fetch_dataset/{run}{set}.tsv"
    wildcard_constraints:
        set="|".join(SETS),
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(2880),
    params:
        settings=settings("fetch_dataset", hub_set, named=lambda known: [f"datasets.{known['choice']['source']}"]),
        store=workflow.pathvars.apply("<data>/hub"),
    shell:
        "python -m viarl.stages.fetch_dataset --settings {params.settings:q} --store {params.store:q}"
        " --items {output.questions:q} --videos {output.videos:q} --manifest {output.manifest:q}"
        " --card {output.card:q} 2>&1 | tee {log:q}"


rule build_stand_ins:
    """Build and pretrain the tiny selector, answerer or CLIP on videos of their own."""
    output:
        model="<data>/{run}stand_ins/{role}/model.safetensors",
        hashes="<data>/{run}stand_ins/{role}/hashes.json",
    log:
        "<results>/logs/build_stand_ins/{run}{role}.log",
    benchmark:
        "<results>/benchmarks/build_stand_ins/{run}{role}.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        settings=settings("build_stand_ins", stand_in, named=lambda known: [f"stand_ins.{known['role']}"]),
    shell:
        "python -m viarl.stages.build_stand_ins --settings {params.settings:q}"
        " --model {output.model:q} 2>&1 | tee {log:q}"


checkpoint hash_model:
    """Hash your own model's folder; nothing follows where its files contain what they did."""
    output:
        hashes="<data>/{run}own_models/{role}.json",
    log:
        "<results>/logs/hash_model/{run}{role}.log",
    benchmark:
        "<results>/benchmarks/hash_model/{run}{role}.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(1500),
        runtime=growing(60),
    params:
        settings=settings("hash_model", lambda config, w: {"role": w["role"], "model": config[w["role"]]["model"]}),
        folder=lambda w: own_model(w.run, w.role),
        known=own_hashes,
        state=lambda w: {path.name: state(path) for path in checkpoint_files(own_model(w.run, w.role))},
    shell:
        "python -m viarl.stages.hash_model --settings {params.settings:q} --folder {params.folder:q}"
        " --known-hashes {params.known:q} --output {output.hashes:q} 2>&1 | tee {log:q}"


rule write_data_card:
    """Say of every set that is used what was found, kept and dropped, by reason, and what the filter dropped."""
    input:
        **needs(
            "write_data_card",
            questions=used_sets("questions"),
            cards=used_sets("card"),
            filtered=of("filter_report"),
        ),
    output:
        card="<results>/{run}data_card.json",
    log:
        "<results>/logs/write_data_card/{run}all.log",
    benchmark:
        "<results>/benchmarks/write_data_card/{run}all.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(1500),
        runtime=growing(30),
    params:
        settings=settings("write_data_card"),
    shell:
        "python -m viarl.stages.write_data_card --settings {params.settings:q} --items {input.questions:q}"
        " --cards {input.cards:q} --filter {input.filtered:q} --output {output.card:q} 2>&1 | tee {log:q}"
