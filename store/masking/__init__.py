"""Masking: personal numbers and addresses in what people wrote are replaced before anything is written.

`masking` says which kinds are masked, and replaces what the recognisers find: `addresses` knows e-mail and IP
addresses, `accounts` payment cards and IBANs, `identity_numbers` those of several countries, and `phones`
telephone numbers. Each finds numbers in running text of any script, Chinese without blanks included.
"""

from store.masking.masking import KINDS, UNMASKED, MaskedText, Masker, Masking, UnknownMaskingError

__all__ = ["KINDS", "UNMASKED", "MaskedText", "Masker", "Masking", "UnknownMaskingError"]
