"""From the body of a request to the pictures in it."""

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from edge_mnist.serving.limits import RefusedError

RAW_NAME = "-"  # as `edge-mnist predict -` calls a picture that has no name
FORM = b"multipart/form-data"
TYPES_WANTED = "want a picture as image/* or application/octet-stream, or multipart/form-data"


@dataclass(frozen=True)
class Upload:
    """One picture of a request.

    Attributes:
        name: Of the file, as the client calls it.
        content: The bytes of the file.
    """

    name: str
    content: bytes


def check_type(content_type: bytes) -> bytes | None:
    """Return the boundary of a form, None if the body is one picture.

    Raises:
        RefusedError: It is neither (415), or a form without boundary (400).
    """
    if not content_type or content_type.startswith(b"image/"):
        return None
    kind, options = parse_options_header(content_type)
    if kind == FORM:
        if not options.get(b"boundary"):
            raise RefusedError(400, "multipart/form-data without a boundary")
        return options[b"boundary"]
    if kind == b"application/octet-stream":
        return None
    raise RefusedError(415, TYPES_WANTED)


def split_body(body: bytes, boundary: bytes | None, *, max_pictures: int) -> list[Upload]:
    """Find the pictures in a body.

    Args:
        body: A picture's file, or a form, each file in which is one, whatever its field is called.
        boundary: What divides the form; None if the body is a picture.
        max_pictures: How many there may be.

    Raises:
        RefusedError: Too many pictures (413); none, or the form is damaged (400).
    """
    if boundary is None:
        if not body:
            raise RefusedError(400, "no picture in the body")
        return [Upload(RAW_NAME, body)]
    form = _Form(max_pictures)
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise RefusedError(400, f"damaged form: {error}") from error
    if not form.ended:
        raise RefusedError(400, "damaged form: it ends too early")
    if not form.uploads:
        raise RefusedError(400, "no picture in this form")
    return form.uploads


@dataclass
class _Form:
    """Collects the parts of a form while it is parsed."""

    max_pictures: int
    uploads: list[Upload] = field(default_factory=list)
    n_parts: int = 0
    ended: bool = False
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _name: bytes = b""
    _value: bytes = b""
    _chunks: list[bytes] = field(default_factory=list)

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._take_name,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_part_data": self._take_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self.n_parts += 1
        if self.n_parts > self.max_pictures:
            raise RefusedError(413, f"more than {self.max_pictures} pictures")
        self._headers, self._chunks = {}, []

    def _take_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])

    def _end_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"filename" in options:  # else it is a field of the form and no file
            name = options[b"filename"].decode("utf-8", "replace") or RAW_NAME
            self.uploads.append(Upload(name, b"".join(self._chunks)))

    def _end(self) -> None:
        self.ended = True
