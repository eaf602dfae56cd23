"""Strings as small numbers that stay: the item ids and the actions and relations of the derived state."""

import struct
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from store.state.packing import DamagedRecordError, with_checksum, without_checksum

_CODE = struct.Struct(">I")  # sorts by number


class Vocabulary:
    """Names by code; codes count from 0 and are never given twice.

    About 150 bytes of memory a name.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.rollbacks = 0  # times that codes were: whoever keeps something by code has to look again
        self.code_of = {name: code for code, name in enumerate(names)}

    @classmethod
    def load(cls, env: Any, table: Any) -> Self:
        """Return the codes that an LMDB table holds.  Raises: DamagedRecordError."""
        with env.begin() as transaction:
            rows = [
                (key, without_checksum("codes", key, raw).decode()) for key, raw in transaction.cursor(table)
            ]
        if any(key != _CODE.pack(code) for code, (key, _) in enumerate(rows)):
            raise DamagedRecordError("codes")
        return cls([name for _, name in rows])

    def draft(self, transaction: Any, table: Any) -> "VocabularyDraft":
        """Return what gives new codes within a write transaction."""
        return VocabularyDraft(self, transaction, table)

    def take(self, draft: "VocabularyDraft") -> None:
        """Make the new codes of a draft known to readers."""
        for name, code in draft.new.items():
            self.names.append(name)
            self.code_of[name] = code

    def forget(self, draft: "VocabularyDraft") -> None:
        """Take back the new codes of a draft that was not committed; others may get them."""
        self.rollbacks += 1
        for name in draft.new:
            if self.code_of.pop(name, None) is not None:
                self.names.pop()


class ValuesByCode:
    """One value for each code, looked up by whole arrays of codes; threads may share it."""

    def __init__(self, codes: Vocabulary, values_of: Callable[[Sequence[str]], npt.NDArray[Any]]) -> None:
        """Take what gives the values (n,) of n names; it is asked once for every name."""
        self._codes = codes
        self._values_of = values_of
        self._known = (codes.rollbacks, values_of([]))

    def __call__(self, codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the value of each code."""
        rollbacks, values = self._known
        if rollbacks != self._codes.rollbacks:  # codes may be those of other names by now
            rollbacks, values = self._codes.rollbacks, self._values_of([])
        names = self._codes.names
        known = len(names)
        if known > len(values):  # codes given out since
            values = np.concatenate([values, self._values_of(names[len(values) : known])])
            self._known = rollbacks, values  # whole, so that other threads see the old or the new one
        found: npt.NDArray[Any] = values[codes]
        return found


class VocabularyDraft:
    """Codes as a write transaction sees them."""

    def __init__(self, codes: Vocabulary, transaction: Any, table: Any) -> None:
        self._codes = codes
        self._transaction = transaction
        self._table = table
        self.new: dict[str, int] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._codes.code_of or name in self.new

    def code(self, name: str) -> int:
        """Return the code of a name, a new one where it has none."""
        code = self._codes.code_of.get(name)
        if code is None:
            code = self.new.get(name)
        if code is None:
            code = self.new[name] = len(self._codes.names) + len(self.new)
            key = _CODE.pack(code)
            self._transaction.put(key, with_checksum(key, name.encode()), db=self._table)
        return code

    def name(self, code: int) -> str:
        """Return the name that has a code."""
        known = len(self._codes.names)
        return self._codes.names[code] if code < known else list(self.new)[code - known]

    def all(self) -> list[str]:
        """Return every name, by code."""
        return [*self._codes.names, *self.new]
