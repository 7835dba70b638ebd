"""Which question stands where in a training: one dataset row is one group."""

from collections.abc import Iterator, Sequence

import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler

from viarl.items import Item


def training_order(count: int, total: int, seed: int) -> list[int]:
    """Return `total` numbers below `count`: shuffled passes over all items, one after the other."""
    rng = np.random.default_rng([seed, count])
    passes = [rng.permutation(count) for _ in range(-(-total // count))]
    return [int(number) for number in np.concatenate(passes)[:total]]


def training_rows(items: Sequence[Item], total: int, seed: int) -> Dataset:
    """Return the rows of a whole training, in order: `item` is a number in `items`, `slot` the row's own number.

    A training is one pass over these rows, so that a resume finds its place by counting.
    """
    order = training_order(len(items), total, seed)
    return Dataset.from_dict(
        {"prompt": [items[number].id for number in order], "item": order, "slot": list(range(total))}
    )


class RolloutSampler(Sampler[int]):
    """Yields the rows of each rollout, repeated for each microbatch and update that is made of it."""

    def __init__(self, rows: int, rows_a_rollout: int, repeats: int) -> None:
        self.rows, self.rows_a_rollout, self.repeats = rows, rows_a_rollout, repeats

    def __len__(self) -> int:
        return self.rows * self.repeats

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self.rows, self.rows_a_rollout):
            for _ in range(self.repeats):
                yield from range(start, start + self.rows_a_rollout)
