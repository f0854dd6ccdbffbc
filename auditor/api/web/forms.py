"""Forms as browsers send them: small ones as text, files streamed to disk behind the token that proves the sender."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from auditor.errors import InvalidInput, NotAllowed, StorageFailure, TooLarge
from auditor.service.scratch import own_folder

CSRF_FIELD = "csrf"
MAX_TEXT_BYTES = 2 << 20
"""Of all fields that are no files."""
MAX_PARTS = 100


@dataclass(frozen=True)
class FormFile:
    """A file of a form, on disk for as long as the request lasts."""

    name: str
    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class Form:
    """What somebody sent."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, FormFile] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A field without the space around it; empty where it was not sent."""
        return self.texts.get(name, [""])[-1].strip()

    def raw(self, name: str) -> str:
        """A field as it was typed, for passwords."""
        return self.texts.get(name, [""])[-1]

    def number(self, name: str) -> float | int | str | None:
        """The number in a field, None where it is empty; the text where it is none, which contracts refuse by name."""
        text = self.text(name)
        try:
            return int(text) if text.isascii() and text.isdigit() else float(text)
        except ValueError:
            return text or None

    def every(self, name: str) -> list[str]:
        """All values of a field that may be ticked more than once."""
        return self.texts.get(name, [])


def form_of(request: Request) -> Form:
    """The form that the guard has read."""
    form: Form = request.state.form
    return form


TheForm = Annotated[Form, Depends(form_of)]


@asynccontextmanager
async def read_form(request: Request, token: str, folder: Path, max_file_bytes: int) -> AsyncIterator[Form]:
    """The form of `request`; its files are gone when the block ends.

    Args:
        request: whose body was not read yet.
        token: what the field `csrf` must say; no file is taken before it has.
        folder: for files.
        max_file_bytes: largest file.

    Raises:
        NotAllowed: the token is missing or wrong.
        TooLarge: the fields or a file.
        InvalidInput: it is no form.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        form = _of_text(await _body(request))
        require_token(form, token)
        yield form
        return
    with own_folder(folder, "form") as name:
        reader = _Multipart(options.get(b"boundary", b""), token, Path(name), max_file_bytes)
        try:
            async for part in request.stream():
                await run_in_threadpool(reader.write, part)
        finally:
            reader.close()
        require_token(reader.form, token)
        yield reader.form


def require_token(form: Form, token: str) -> None:
    """Raises NotAllowed where the form was not made for this session."""
    if not hmac.compare_digest(form.text(CSRF_FIELD).encode(), token.encode()):
        raise NotAllowed("this form was not made for this session, or is too old", remedy="Open the page again.")


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_TEXT_BYTES:
            raise TooLarge(f"the form has more than {MAX_TEXT_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _of_text(body: bytes) -> Form:
    form = Form()
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARTS)
    except ValueError:
        raise InvalidInput("the form cannot be read: it is not UTF-8, or has too many fields") from None
    for name, value in pairs:
        form.texts.setdefault(name, []).append(_plain(value))
    return form


def _plain(value: str) -> str:
    if "\0" in value:
        raise InvalidInput("a field of the form holds a NUL character")
    return value.replace("\r\n", "\n")


class _Multipart:
    """Takes a multipart body as it comes; no more of a file is in memory than one piece of it."""

    def __init__(self, boundary: bytes, token: str, folder: Path, max_file_bytes: int) -> None:
        if not boundary:
            raise InvalidInput("the form has no boundary")
        self.form = Form()
        self._token, self._folder, self._max_file_bytes = token, folder, max_file_bytes
        self._n_parts = self._n_text = 0
        self._field, self._value = b"", b""
        self._headers: dict[str, bytes] = {}
        self._name, self._file_name = "", ""
        self._text = bytearray()
        self._handle: BinaryIO | None = None
        self._size, self._digest = 0, hashlib.sha256()
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_headers_finished": self._on_headers,
            "on_part_data": self._on_data,
            "on_part_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)

    def write(self, data: bytes) -> None:
        """Raises like `read_form`."""
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise InvalidInput(f"the form cannot be read: {error}") from None
        except OSError as error:
            raise StorageFailure(f"the file could not be written: {error.strerror}") from error

    def close(self) -> None:
        """Let go of a file that did not come whole."""
        if self._handle is not None:
            self._handle.close()

    def _begin(self) -> None:
        self._n_parts += 1
        if self._n_parts > MAX_PARTS:
            raise InvalidInput("the form has too many fields")
        self._headers = {}
        self._text, self._size, self._digest = bytearray(), 0, hashlib.sha256()

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = self._value
        self._field, self._value = b"", b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._file_name = _file_name(options.get(b"filename", b""))
        if self._file_name:
            require_token(self.form, self._token)
            self._handle = (self._folder / str(self._n_parts)).open("wb")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if self._handle is not None:
            self._size += len(piece)
            if self._size > self._max_file_bytes:
                raise TooLarge(f"'{self._file_name}' is larger than {self._max_file_bytes} bytes")
            self._digest.update(piece)
            self._handle.write(piece)
            return
        self._n_text += len(piece)
        if self._n_text > MAX_TEXT_BYTES:
            raise TooLarge(f"the form's fields have more than {MAX_TEXT_BYTES} bytes")
        self._text += piece

    def _end(self) -> None:
        if self._handle is not None:
            path = Path(self._handle.name)
            self._handle.close()
            self._handle = None
            found = FormFile(self._file_name, path, self._size, self._digest.hexdigest())
            self.form.files[self._name] = found
            return
        try:
            value = self._text.decode()
        except UnicodeDecodeError:
            raise InvalidInput(f"the field '{self._name[:100]}' is not UTF-8") from None
        self.form.texts.setdefault(self._name, []).append(_plain(value))


def _file_name(given: bytes) -> str:
    """The last part of a name, as one line of text; it is shown, and never used as a path."""
    name = re.split(r"[/\\]", given.decode("utf-8", "replace"))[-1]
    return "".join(character for character in name if character.isprintable())[:200]
