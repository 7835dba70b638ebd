"""The same question with its options in another order, to tell knowing from guessing a letter."""

from dataclasses import replace

from viarl.items import LETTERS, Item


def rotated(item: Item, shift: int) -> Item:
    """Return the item with its options moved on by `shift` places; the answer's letter, if known, moves with them."""
    count = len(item.options)
    if not count or not shift % count:
        return item
    options = tuple(item.options[(place - shift) % count] for place in range(count))
    return replace(item, options=options, answer=letter_before(item.answer, item, -shift))


def letter_before(letter: str, item: Item, shift: int) -> str:
    """Return the letter, in `item`, of the option that carries `letter` in rotated(item, shift); "" stays ""."""
    return LETTERS[(LETTERS.index(letter) - shift) % len(item.options)] if letter else ""
