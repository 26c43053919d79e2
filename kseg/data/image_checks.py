"""Checks of an opened image file for what Pillow would leave out without a word: bits, bands and pages."""

from typing import Any

from kseg.data.dataset import BadSample

EXTRA_BANDS = "bands beyond the first three are left out (transparency, or infrared)"
"""A note of kseg.data.image_io.read_image."""
_REDUCED = 254  # TIFF's NewSubfileType; its bits 0 and 2 mark overviews and masks of the first page
_BITS, _SAMPLES = 258, 277


def check_bits(image: Any, shown: str) -> None:
    """Raises BadSample for an image of more than 8 bits per channel, of which Pillow may keep the upper 8 only."""
    if (bits := _bits(image)) > 8:
        raise BadSample(
            f"{shown}: has {bits} bits per channel, and kseg reads 8; store it with 8, scaled so that the values that occur fill "
            "0 to 255."
        )


def check_pages(image: Any, shown: str) -> None:
    """Raises BadSample for an animation or a file of several pages. Overviews do not count, nor the previews in a photo."""
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return
    count = getattr(image, "n_frames", 2)
    if image.format == "TIFF":
        kinds = []
        for page in range(min(count, 64)):
            image.seek(page)
            kinds.append(image.tag_v2.get(_REDUCED, 0))
        image.seek(0)
        count -= sum(bool(kind & 0b101) for kind in kinds[1:])
    if count > 1:
        what = "pages" if image.format == "TIFF" else "frames"
        raise BadSample(f"{shown}: has {count} {what}, and kseg reads files of one; store each in a file of its own.")


def has_extra_bands(image: Any) -> bool:
    """Returns True if converting the loaded image to RGB leaves out a band that holds something."""
    if image.mode == "RGBX" or (image.format == "TIFF" and image.mode == "RGB" and image.tag_v2.get(_SAMPLES, 3) > 3):
        return True
    if image.mode not in ("RGBA", "RGBa", "LA", "La", "PA"):
        return False
    low, high = image.getchannel(len(image.getbands()) - 1).getextrema()
    return low != high


def raw_mode(image: Any) -> str:
    """Returns Pillow's name of the pixels' form in the file, "" if there is none."""
    tile = getattr(image, "tile", None)
    raw = tile[0][3] if tile else None
    return raw if isinstance(raw, str) else raw[0] if isinstance(raw, tuple) and raw and isinstance(raw[0], str) else ""


def _bits(image: Any) -> int:
    """Bits per channel in the file, 8 where they are not known to be more."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS, (8,)))
    if image.format == "PPM" and image.tile:
        args = image.tile[0][3]
        largest = args[-1] if isinstance(args, tuple) else 0
        return largest.bit_length() if isinstance(largest, int) else 8
    if image.format == "JPEG2000":
        return _bits_of_jpeg2000(image)
    return 16 if ";16" in raw_mode(image) else 8


def _bits_of_jpeg2000(image: Any) -> int:
    """Reads the SIZ marker of the code stream, which lists a byte for each component: its bits less one, and its sign."""
    fp = image.fp
    place = fp.tell()
    fp.seek(0)
    head = fp.read(2**16)
    fp.seek(place)
    start = head.find(b"\xff\x4f\xff\x51")
    if start < 0 or start + 45 > len(head):
        return 8
    count = int.from_bytes(head[start + 40 : start + 42], "big")
    return max([(byte & 127) + 1 for byte in head[start + 42 : start + 42 + 3 * count : 3]], default=8)
