"""The ISMRMRD header of a fastMRI file, as far as sizes go."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

NAMESPACE = "http://www.ismrm.org/ISMRMRD"


@dataclass(frozen=True)
class FastMRIHeader:
    """Sizes in samples; x is the readout (rows of k-space), y the phase encoding (columns).

    Attributes:
        encoded: Size `(x, y)` of the encoded field of view.
        recon: Size `(x, y)` of the reconstructed image.
        first: First phase-encoding step that was acquired.
        last: Last one.
        center: The one through the center of k-space.
    """

    encoded: tuple[int, int]
    recon: tuple[int, int]
    first: int
    last: int
    center: int

    def acquired(self, width: int) -> tuple[int, int]:
        """Returns the first acquired column and the one after the last.

        The columns before and after (`padding_left` and `padding_right` in fastMRI's own code)
        hold zeros that pad k-space to its full width.

        Args:
            width: Columns of the stored k-space, whose center is `width // 2`.
        """
        shift = width // 2 - self.center
        return max(self.first + shift, 0), min(self.last + shift + 1, width)


def parse_header(xml: str | bytes) -> FastMRIHeader:
    """Reads the sizes.

    Args:
        xml: Content of `ismrmrd_header`.

    Raises:
        ValueError: If the XML is damaged or lacks a size.
    """
    try:
        root = ET.fromstring(xml)
    except (ET.ParseError, UnicodeError) as error:
        raise ValueError(f"no XML: {error}") from error

    def number(path: str) -> int:
        tags = ["encoding", *path.split("/")]
        text = root.findtext("/".join(f"{{{NAMESPACE}}}{tag}" for tag in tags))
        if text is None:
            raise ValueError(f"no {'/'.join(tags)}")
        value = int(text)
        if not 0 <= value < 2**20:
            raise ValueError(f"{'/'.join(tags)} = {value}")
        return value

    def sizes(space: str) -> tuple[int, int]:
        x, y = (number(f"{space}/matrixSize/{axis}") for axis in "xy")
        return x, y

    limits = "encodingLimits/kspace_encoding_step_1"
    return FastMRIHeader(
        encoded=sizes("encodedSpace"),
        recon=sizes("reconSpace"),
        first=number(f"{limits}/minimum"),
        last=number(f"{limits}/maximum"),
        center=number(f"{limits}/center"),
    )


def write_header(header: FastMRIHeader) -> str:
    """Returns the XML that `parse_header` reads."""
    ET.register_namespace("", NAMESPACE)
    root = ET.Element(f"{{{NAMESPACE}}}ismrmrdHeader")
    encoding = _child(root, "encoding")
    for space, (x, y) in (("encodedSpace", header.encoded), ("reconSpace", header.recon)):
        size = _child(_child(encoding, space), "matrixSize")
        for axis, value in (("x", x), ("y", y), ("z", 1)):
            _child(size, axis).text = str(value)
    limits = _child(_child(encoding, "encodingLimits"), "kspace_encoding_step_1")
    steps = {"minimum": header.first, "maximum": header.last, "center": header.center}
    for name, value in steps.items():
        _child(limits, name).text = str(value)
    _child(encoding, "trajectory").text = "cartesian"
    return ET.tostring(root, encoding="unicode")


def _child(parent: ET.Element, tag: str) -> ET.Element:
    return ET.SubElement(parent, f"{{{NAMESPACE}}}{tag}")
