"""Settings that every training has."""

SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}  # our name -> the name in transformers
