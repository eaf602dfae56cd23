"""The vocabulary of the derived state: item ids, and names of actions and relations, as small numbers."""

import struct
from collections.abc import Sequence
from typing import Any, Self

from store.state.packing import DamagedRecordError, with_checksum, without_checksum

_CODE = struct.Struct(">I")  # big-endian, so that LMDB sorts the keys by code


class Vocabulary:
    """Strings by code; codes count from 0.

    A code that was committed always means the same string. A code that a transaction gave out and that was
    rolled back is given out again, perhaps for another string; `rollbacks` counts how often that happened.
    About 150 bytes of memory a string.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.rollbacks = 0  # whoever keeps something by code starts anew when this changes
        self.code_of = {name: code for code, name in enumerate(names)}

    @classmethod
    def load(cls, env: Any, table: Any) -> Self:
        """Read the vocabulary of an LMDB table.  Raises: DamagedRecordError."""
        with env.begin() as transaction:
            rows = [
                (key, without_checksum("codes", key, raw).decode()) for key, raw in transaction.cursor(table)
            ]
        if any(key != _CODE.pack(code) for code, (key, _) in enumerate(rows)):
            raise DamagedRecordError("codes")
        return cls([name for _, name in rows])

    def catch_up(self, transaction: Any, table: Any, count: int) -> None:
        """Read the codes that another process has given out since, of which there are `count` by now.

        Raises:
            DamagedRecordError: one is not what was written.
        """
        for code in range(len(self.names), count):
            key = _CODE.pack(code)
            raw = transaction.get(key, db=table)
            if raw is None:
                raise DamagedRecordError("codes")
            name = without_checksum("codes", key, raw).decode()
            self.names.append(name)
            self.code_of[name] = code

    def learn(self, names: Sequence[str]) -> None:
        """Take the strings of the next codes, which another process has given out."""
        for name in names:
            self.code_of[name] = len(self.names)
            self.names.append(name)

    def add(self, draft: "VocabularyDraft") -> None:
        """Make the new codes of a draft known to readers."""
        for name, code in draft.new.items():
            self.names.append(name)
            self.code_of[name] = code

    def roll_back(self, draft: "VocabularyDraft") -> None:
        """Remove the new codes of a draft that was not committed; the next draft gives them out again."""
        for name in draft.new:
            if self.code_of.pop(name, None) is not None:
                self.names.pop()
        self.rollbacks += 1  # last: whoever reads the new number must not find the removed names


class VocabularyDraft:
    """A vocabulary as one write transaction sees it."""

    def __init__(self, vocabulary: Vocabulary, transaction: Any, table: Any) -> None:
        self._vocabulary = vocabulary
        self._transaction = transaction
        self._table = table
        self.new: dict[str, int] = {}  # codes that this transaction gave out

    def __len__(self) -> int:
        return len(self._vocabulary.names) + len(self.new)

    def __contains__(self, name: object) -> bool:
        return name in self._vocabulary.code_of or name in self.new

    def code(self, name: str) -> int:
        """Look up the code of a string; one that has none gets the next."""
        code = self._vocabulary.code_of.get(name)
        if code is None:
            code = self.new.get(name)
        if code is None:
            code = self.new[name] = len(self)
            key = _CODE.pack(code)
            self._transaction.put(key, with_checksum(key, name.encode()), db=self._table)
        return code

    def name(self, code: int) -> str:
        """Return the string that has a code."""
        known = len(self._vocabulary.names)
        return self._vocabulary.names[code] if code < known else list(self.new)[code - known]

    def names(self) -> list[str]:
        """Return all strings, in the order of their codes."""
        return [*self._vocabulary.names, *self.new]
