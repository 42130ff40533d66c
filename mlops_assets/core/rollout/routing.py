"""Which requests belong to the challenger: a share of the entities, the same ones each time, others in each rollout."""

import hashlib

_BYTES = 8
_WHOLE = 2.0 ** (8 * _BYTES)
_MOST_SALT = hashlib.blake2b.MAX_KEY_SIZE


class Split:
    """Tells by an entity's key whether it is of the challenger's share. Immutable, and safe to share between threads.

    An entity's place in [0, 1) is its keyed BLAKE2b hash (RFC 7693): a share takes those below it. Whoever is in a share is
    therefore in every larger one of the same salt, and the shares of two salts are independent of each other.

    Parameters
    ----------
    salt
        1 to 64 bytes in UTF-8, or none at all.

    Raises
    ------
    ValueError
        When the salt is too long.
    """

    def __init__(self, salt: str, share: float) -> None:
        require_salt(salt)
        self._hash = hashlib.blake2b(key=salt.encode(), digest_size=_BYTES)
        self._below = int(share * _WHOLE)

    def __call__(self, entity: str) -> bool:
        place = self._hash.copy()
        place.update(entity.encode("utf-8", "surrogatepass"))
        return int.from_bytes(place.digest()) < self._below


def require_salt(salt: str) -> None:
    """Raises `ValueError` for a salt that the hash does not take."""
    if len(salt.encode()) > _MOST_SALT:
        raise ValueError(f"the salt {salt!r} is longer than {_MOST_SALT} bytes: take a shorter one")
