"""A saved run for other software, proven equal before it is written: see docs/export.md."""

from tasks.export.formats import FORMATS, Exporter, choose_formats, open_export
from tasks.export.gate import Parity, ParityError
from tasks.export.head import load_head
from tasks.export.rows import Rows

__all__ = ["FORMATS", "Exporter", "Parity", "ParityError", "Rows", "choose_formats", "load_head", "open_export"]
