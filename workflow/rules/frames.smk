"""Candidate frames and their similarity to the questions.

Inputs:  <data>/sets/{set}/items.jsonl and videos.jsonl; the CLIP model.
Outputs: <data>/{run}frames/{set}/{shard}.json (manifest; one safetensors file a video lies beside it) and
         <data>/{run}clip/{set}/{shard}.safetensors (one vector of similarities for each question).
Usual order: cache_frames, then score_frames, shard by shard; then filter.smk and evaluate.smk.
"""


rule cache_frames:
    """Decode each video of a shard once and keep its candidate frames in both resolutions."""
    input:
        **needs("cache_frames", videos=of("videos")),
    output:
        manifest="<data>/{run}frames/{set}/{shard}.json",
    log:
        "<results>/logs/cache_frames/{run}{set}.{shard}.log",
    benchmark:
        "<results>/benchmarks/cache_frames/{run}{set}.{shard}.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(720),
    params:
        settings=settings(
            "cache_frames",
            lambda config, w: counted(CacheSettings, config["frames"]),
            lambda config, w: {"shard": int(w["shard"]), "shards": shards(config, w)},
            lambda config, w: {"max_bad_share": 1.0} if w["set"].startswith("local") else {},
        ),
    shell:
        "python -m viarl.stages.cache_frames --settings {params.settings:q}"
        " --videos {input.videos:q} --manifest {output.manifest:q} 2>&1 | tee {log:q}"


rule score_frames:
    """Compute the CLIP similarity of every candidate frame and question of a shard."""
    input:
        **needs("score_frames", questions=of("questions"), frames=of("frames"), clip=of("base_model", role="clip")),
    output:
        scores="<data>/{run}clip/{set}/{shard}.safetensors",
    log:
        "<results>/logs/score_frames/{run}{set}.{shard}.log",
    benchmark:
        "<results>/benchmarks/score_frames/{run}{set}.{shard}.tsv"
    conda:
        "../../envs/viarl.yaml"
    resources:
        mem_mb=growing(3000),
        runtime=growing(240),
    params:
        settings=settings("score_frames", lambda config, w: {"clip": counted(ClipSettings, config["clip"])}),
        model=model("clip"),
    shell:
        "python -m viarl.stages.score_frames --settings {params.settings:q} --items {input.questions:q}"
        " --manifest {input.frames:q} --model {params.model:q} --output {output.scores:q} 2>&1 | tee {log:q}"
