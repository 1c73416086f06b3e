"""One image file as uint8 pixels: what each type of pixel means, and which are refused.

Of 16 bits the upper 8 are kept: of those 8, 10, 12, 14 or 16 that the data set's grey images use.
Of coloured ones some image must use 15 or 16: PIL keeps the upper 8 whatever they hold. Transparent
pixels lie on white, as a browser shows them. Floats count from 0 to 1. Integers of 32 bits are
taken as they are from 0 to 255. Anything beyond is refused, since no rule says what it means. Where
a file says that 0 is white, it is. A camera's turn (EXIF) is undone; other metadata, damaged or
not, changes nothing. Of an animation the first frame counts.
"""

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, features

from atomlib.errors import DataError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP") + (
    ("AVIF",) if features.check("avif") else ()
)
"""What PIL may take a file for: of others, some start programs, as PostScript does."""

PIXELS = 1 << 25
"""Of one image, before it is brought to size: 33 million."""


class Pixels(NamedTuple):
    """An image, and what was done to it."""

    array: np.ndarray
    """uint8 [h, w, 3], or [h, w] where the file is greyscale."""
    deepest: int
    """The largest value of a grey image of 16 bits; -1 for any other."""
    brightest: int
    """The largest of the upper 8 bits of a coloured image of 16 bits; -1 for any other."""
    is_transparent: bool
    is_animated: bool


def read_image(name: str, content: bytes, path: Path, resize: int | None, bits: int = 16) -> Pixels:
    """The pixels of the file ``name`` of ``path``.

    Of grey images of 16 bits, ``bits`` are used, and the upper 8 of these are kept. With
    ``resize`` the shorter side is scaled to it and the middle cut out. Raises DataError naming the
    file, with the reason.
    """
    try:
        try:
            return _read(content, resize, bits, name, path)
        except (DataError, Image.DecompressionBombError):
            raise
        except Exception:
            plain = without_metadata(content)
            if plain == content:
                raise
            return _read(plain, resize, bits, name, path)
    except DataError:
        raise
    except Image.DecompressionBombError:  # PIL's own bound, above ours
        raise _too_large(name, path) from None
    except Image.UnidentifiedImageError:
        reason = _why_unknown(content)
    except Exception as error:  # of damaged files PIL's decoders raise nearly anything
        reason = _line(error)
    raise DataError(
        f"image {name} of {path} is truncated or no image ({reason}); allowed: whole images; "
        "replace or delete it"
    )


def stacked(images: Sequence[np.ndarray], channels: int) -> np.ndarray:
    """uint8 [n, channels, h, w] of images of one size, [h, w, 3] or [h, w]; grey ones among
    coloured, where ``channels`` is 3, get three equal channels."""
    out = np.empty((len(images), channels, *images[0].shape[:2]), np.uint8)
    for place, pixels in zip(out, images, strict=True):
        place[:] = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels
    return out


def use_bits(
    decoded: list[Pixels],
    names: Sequence[str],
    files: Mapping[str, bytes],
    path: Path,
    resize: int | None,
) -> int:
    """How many of 16 bits the grey images of one data set use, 16 where there are none such.

    Where it is fewer, they are read again, in place: what the upper 8 are depends on all images.
    Raises DataError where coloured images of 16 bits use few of them, as those of cameras do.
    """
    rows = [row for row, pixels in enumerate(decoded) if pixels.brightest >= 0]
    brightest = max((decoded[row].brightest for row in rows), default=255)
    if brightest < 64:
        raise DataError(
            f"image {names[rows[0]]} of {path} has 16 bits a channel, of which none of "
            f"{len(rows):,} such images uses more than {brightest.bit_length() + 8}; allowed: 15 "
            "or 16 bits in use (scale the values to the whole range, or write 8 bits a channel)"
        )
    deepest = max(pixels.deepest for pixels in decoded)
    if deepest < 0:
        return 16
    bits = next(bits for bits in (8, 10, 12, 14, 16) if deepest < 1 << bits)
    for row, name in enumerate(names):
        if bits < 16 and decoded[row].deepest >= 0:
            decoded[row] = read_image(name, files[name], path, resize, bits)
    return bits


def _read(content: bytes, resize: int | None, bits: int, name: str, path: Path) -> Pixels:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > PIXELS:
            raise _too_large(name, path)
        is_animated = getattr(image, "is_animated", False)
        raw = _raw_mode(image)
        image.load()  # here, where a damaged file is told; a TIFF is turned as it is loaded
        if image.format != "TIFF":
            with suppress(Exception):  # damaged EXIF, which says nothing about the pixels
                ImageOps.exif_transpose(image, in_place=True)
        deepest, brightest, is_transparent = -1, -1, False
        tags = getattr(image, "tag_v2", {})  # of TIFF
        if tags and image.mode != "I" and SIGNED in np.atleast_1d(tags.get(SAMPLE_FORMAT, 1)):
            raise DataError(
                f"image {name} of {path} has signed integers as pixels; allowed: {ALLOWED}"
            )
        is_zero_white = tags.get(PHOTOMETRIC) == 0
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
            values = np.asarray(image).astype(np.uint16)
            # The clear value marks pixels, and is none of the brightnesses.
            clear = values == image.info.get("transparency", -1)
            is_transparent = bool(clear.any())
            deepest = int(values[~clear].max(initial=0))
            values = np.where(clear, 255, values >> (bits - 8))
            # Of other types PIL has turned them round already.
            image = Image.fromarray((255 - values if is_zero_white else values).astype(np.uint8))
        elif image.mode in ("I", "F"):
            values = _scaled(image, name, path)
            image = Image.fromarray(255 - values if is_zero_white else values)
        elif ";16" in raw:
            if "transparency" in image.info:  # of which PIL, which keeps 8 bits, cannot tell
                raise DataError(
                    f"image {name} of {path} has 16 bits a channel and a transparent colour; "
                    "allowed: an alpha channel instead, or 8 bits a channel"
                )
            brightest = max(high for _, high in image.getextrema()[:3])
        is_grey = image.mode in ("1", "L", "LA", "La") or raw == "LA;16B"
        if image.has_transparency_data:
            image = image.convert("RGBA")
            is_transparent = image.getextrema()[3][0] < 255
            if is_transparent:
                ground = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(ground, image)
        image = image.convert("L" if is_grey else "RGB")
        if resize is not None and image.size != (resize, resize):
            image = ImageOps.fit(image, (resize, resize), Image.Resampling.BICUBIC)
        return Pixels(np.asarray(image), deepest, brightest, is_transparent, is_animated)


SAMPLE_FORMAT, SIGNED, PHOTOMETRIC = 339, 2, 262
"""Tags of TIFF: what the bits of a pixel mean, and what its 0 means."""


ALLOWED = "floats from 0 to 1, integers from 0 to 255, or 8 or 16 bits a pixel without sign"


def _raw_mode(image: Image.Image) -> str:
    """How pixels lie in the file, as PIL calls it: "RGB;16B", say."""
    args = image.tile[0].args if image.tile else ""
    name, most = args if isinstance(args, tuple) and len(args) == 2 else (args, 0)
    if image.format == "PPM" and most == 0xFFFF:
        return f"{name};16"
    return str(name[0] if isinstance(name, tuple) and name else name)


def _why_unknown(content: bytes) -> str:
    """Why PIL takes this for no image: what the decoder says that the first bytes are meant for."""
    for kind in FORMATS:
        factory, accept = Image.OPEN[kind]
        if accept is not None and accept(content[:16]) is True:
            try:
                factory(io.BytesIO(content), "").close()
            except Exception as error:
                return f"{kind}: {_line(error)}"
    return f"none of {', '.join(FORMATS)}"


def _line(error: Exception) -> str:
    return " ".join(f"{error}".split())[:200] or type(error).__name__


def _scaled(image: Image.Image, name: str, path: Path) -> np.ndarray:
    """Floats from 0 to 1 and integers from 0 to 255, as uint8."""
    values = np.asarray(image)
    kind, most = ("floats", 1.0) if image.mode == "F" else ("integers", 255)
    low, high = values.min(), values.max()
    if not (math.isfinite(low) and math.isfinite(high) and low >= 0 and high <= most):
        raise DataError(
            f"image {name} of {path} has {kind} from {low:g} to {high:g} as pixels; allowed: "
            f"{ALLOWED}"
        )
    return (values * (255 / most)).round().astype(np.uint8)


def without_metadata(content: bytes) -> bytes:
    """A PNG or JPEG without the parts that are not its pixels; anything else as it is."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        kept, at = [content[:8]], 8
        while at + 12 <= len(content):
            end = at + 12 + int.from_bytes(content[at : at + 4], "big")
            if content[at + 4 : at + 8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
                kept.append(content[at:end])
            at = end
        return b"".join(kept)
    if content.startswith(b"\xff\xd8"):
        kept, at = [content[:2]], 2
        while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
            kind, end = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
            if kind == 0xDA:  # the scan, to the end
                break
            # APP0 (JFIF) and APP14 (Adobe) say what the colours mean.
            if not (0xE1 <= kind <= 0xED or kind in (0xEF, 0xFE)):
                kept.append(content[at:end])
            at = end
        return b"".join([*kept, content[at:]])
    return content


def _too_large(name: str, path: Path) -> DataError:
    return DataError(f"image {name} of {path} is too large; allowed: {PIXELS:,} pixels")
