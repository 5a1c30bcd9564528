"""The image that a task of Label Studio shows: the field of `data`, and the name in its address."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ...config import UserError

PICTURE = re.compile(r"\.(png|jpe?g|bmp|gif|tiff?|webp|dcm|dicom)$", re.IGNORECASE)
UPLOADED = re.compile(r"^(\d+/)?([0-9a-f]{8}-)?")  # project, and what makes a name unique


def image_of(data: Mapping[str, Any], field: str | None, where: str) -> str:
    """The image of a task. `field`: its name in `data`; None: `image`, or the only picture.

    Raises:
        UserError: no such field, no picture or several, or an image within the file.
    """
    if field is None:
        texts = [key for key, value in data.items() if isinstance(value, str)]
        pictures = [key for key in texts if PICTURE.search(image_name(data[key]))]
        field = "image" if "image" in texts else pictures[0] if len(pictures) == 1 else None
        if field is None:
            raise UserError(
                f"{where}, key 'data': {len(pictures)} images among {list(data)}; expected one."
                " Name its field with --label-studio-image."
            )
    if not isinstance(data.get(field), str):
        raise UserError(
            f"{where}, key 'data': no text {field!r} among {list(data)}; expected the address of"
            " the image. Name its field with --label-studio-image."
        )
    if data[field].startswith("data:"):
        raise UserError(
            f"{where}, key 'data': {field!r} holds the image itself; expected its address. Import"
            " the images as files."
        )
    return image_name(data[field])


def image_name(address: str) -> str:
    """The path of an image in its address, without what Label Studio or a store puts before it."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    query = parse_qs(parts.query)
    if "/data/local-files" in parts.path and "d" in query:
        return query["d"][0].lstrip("/")
    if "fileuri" in query:  # a store behind Label Studio
        try:
            stored = base64.b64decode(query["fileuri"][0], validate=True).decode("utf-8")
            return urlsplit(stored).path.lstrip("/")
        except ValueError:  # no base64, no UTF-8, or no address
            return address
    _, uploaded, name = parts.path.rpartition("/data/upload/")
    if uploaded:
        return UPLOADED.sub("", unquote(name), count=1)
    if "://" not in address:
        return address  # a plain path, in which ?, # and % are letters
    return (unquote(parts.path) if parts.scheme.startswith("http") else parts.path).lstrip("/")
