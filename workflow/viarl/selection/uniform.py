"""Uniform selection: the one definition used as baseline and as fallback for invalid selector outputs."""


def uniform(count: int, selected: int) -> list[int]:
    """Return `min(selected, count)` indices spread evenly over 0..count-1: linspace(0, count - 1, K), rounded."""
    if count < 1 or selected < 1:
        raise ValueError(f"uniform selection needs at least one frame, got count={count}, selected={selected}")
    wanted = min(selected, count)
    if wanted == 1:
        return [(count - 1) // 2]
    return [round(step * (count - 1) / (wanted - 1)) for step in range(wanted)]
