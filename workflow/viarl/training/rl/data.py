"""Which question stands where in a training: one dataset row is one group."""

from collections.abc import Iterator, Sequence

from datasets import Dataset
from torch.utils.data import Sampler

from viarl.items import Item
from viarl.training.libraries import schedule


def training_rows(items: Sequence[Item], total: int, seed: int) -> Dataset:
    """Return the rows of a whole training, in order: `item` is a number in `items`, `slot` the row's own number.

    A training is one pass over these rows, so that a resume finds its place by counting.
    """
    order = schedule(len(items), total, [seed, len(items)])
    prompts = [items[number].id for number in order]
    return Dataset.from_dict({"prompt": prompts, "item": order, "slot": list(range(total))})


class RolloutSampler(Sampler[int]):
    """Yields the rows of each rollout, repeated for each microbatch and update that is made of it."""

    def __init__(self, rows: int, rows_a_rollout: int, repeats: int) -> None:
        self.rows, self.rows_a_rollout, self.repeats = rows, rows_a_rollout, repeats

    def __len__(self) -> int:
        return self.rows * self.repeats

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self.rows, self.rows_a_rollout):
            yield from list(range(start, start + self.rows_a_rollout)) * self.repeats
