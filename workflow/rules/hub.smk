"""Data sets on a hub (huggingface.co or HF_ENDPOINT; HF_TOKEN where they are gated).

Inputs:  the configuration alone, and the network.
Outputs: <data>/{run}sets/{set}/items.jsonl, videos.jsonl, manifest.json (every file: size, SHA-256, origin) and
         data_card.json (found, kept, dropped by reason); <results>/{run}data_card.json of all sets that are used.
Usual order: fetch_dataset, then frames.smk; write_data_card after filter.smk.
Working files: <data>/hub/<owner>--<name>/, undeclared: what was downloaded, for all sets, runs and ablations.
"""


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
        settings=settings("fetch_dataset", hub_set),
        store=workflow.pathvars.apply("<data>/hub"),
        code=lambda w: [
            fingerprint(f"viarl.{name}") for name in ("stages.fetch_dataset", f"datasets.{SETS[w.set].source}")
        ],
    shell:
        "python -m viarl.stages.fetch_dataset --settings {params.settings:q} --store {params.store:q}"
        " --items {output.questions:q} --videos {output.videos:q} --manifest {output.manifest:q}"
        " --card {output.card:q} 2>&1 | tee {log:q}"


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
        code=fingerprint("viarl.stages.write_data_card"),
    shell:
        "python -m viarl.stages.write_data_card --settings {params.settings:q} --items {input.questions:q}"
        " --cards {input.cards:q} --filter {input.filtered:q} --output {output.card:q} 2>&1 | tee {log:q}"
