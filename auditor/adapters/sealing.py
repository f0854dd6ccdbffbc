"""Encryption of blobs at rest: AES-256-GCM over parts of 1 MiB, so that large files are never whole in memory.

The parts form a STREAM (Hoang, Reyhanitabar, Rogaway and Vizár, "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance", CRYPTO 2015): every nonce is a random prefix with the number of its part, and the last part is
marked, so parts cannot be changed, moved, dropped or taken from another blob unnoticed.

    magic (8) | key id (8) | nonce prefix (8) | parts: ciphertext and tag (16)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterator, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from auditor.adapters.blobs import Readable
from auditor.errors import InvalidInput, StorageFailure

MAGIC = b"auditor\x01"
_PART, _TAG, _KEY = 1 << 20, 16, 32
_REMEDY = "AUDITOR_ENCRYPTION_KEYS holds base64 of 32 random bytes (`openssl rand -base64 32`), the newest key first."


class Sealer:
    """Seals with its first key, and opens what any of them sealed.

    Args:
        keys: base64 of 32 bytes each, the newest first.

    Raises:
        InvalidInput: a key is not one.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        raw = [_decoded(key) for key in keys]
        if not raw:
            raise InvalidInput("no encryption key was given", remedy=_REMEDY)
        self._ciphers = {hashlib.sha256(key).digest()[:8]: AESGCM(key) for key in raw}
        self._newest = hashlib.sha256(raw[0]).digest()[:8]

    def seal(self, name: str, source: Readable) -> Readable:
        """What `source` gives, sealed for the blob called `name`."""
        return _Parts(self._sealed(name.encode(), source))

    def open(self, name: str, header: bytes, source: Readable) -> Readable:
        """The plain bytes of a sealed blob.

        Args:
            name: of the blob.
            header: its first bytes, `MAGIC` and 16 more.
            source: the rest.

        Raises:
            StorageFailure: sealed with a key that is not here; while reading: damaged.
        """
        key, prefix = header[len(MAGIC) : len(MAGIC) + 8], header[len(MAGIC) + 8 :]
        if key not in self._ciphers:
            raise StorageFailure("an artifact is encrypted with another key", remedy=_REMEDY)
        return _Parts(self._opened(name.encode(), self._ciphers[key], prefix, source))

    def _sealed(self, name: bytes, source: Readable) -> Iterator[bytes]:
        cipher, prefix = self._ciphers[self._newest], os.urandom(8)
        yield MAGIC + self._newest + prefix
        for number, part, last in _numbered(source, _PART):
            yield cipher.encrypt(prefix + number.to_bytes(4), part, name + bytes([last]))

    def _opened(self, name: bytes, cipher: AESGCM, prefix: bytes, source: Readable) -> Iterator[bytes]:
        for number, part, last in _numbered(source, _PART + _TAG):
            try:
                yield cipher.decrypt(prefix + number.to_bytes(4), part, name + bytes([last]))
            except InvalidTag:
                raise StorageFailure(f"artifact {name.decode()} is damaged: its seal is broken") from None


def _decoded(key: str) -> bytes:
    try:
        raw = base64.b64decode(key.strip(), validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != _KEY:
        raise InvalidInput("an encryption key is not base64 of 32 bytes", remedy=_REMEDY)
    return raw


def _numbered(source: Readable, size: int) -> Iterator[tuple[int, bytes, bool]]:
    """(number, part, whether it is the last) of all that `source` gives, in parts of `size`; one at least."""
    number, part = 0, _whole(source, size)
    while True:
        following = _whole(source, size) if len(part) == size else b""
        yield number, part, not following
        if not following:
            return
        number, part = number + 1, following


def _whole(source: Readable, size: int) -> bytes:
    """`size` bytes, less only at the end: a network gives less at a time."""
    parts: list[bytes] = []
    while size and (part := source.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class _Parts:
    """Parts as something to read from."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._rest = parts, b""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes."""
        while size < 0 or len(self._rest) < size:
            part = next(self._parts, None)
            if part is None:
                break
            self._rest += part
        end = len(self._rest) if size < 0 else size
        given, self._rest = self._rest[:end], self._rest[end:]
        return given
