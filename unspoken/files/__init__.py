"""Files and folders that are either whole or not there, and names for them."""

from unspoken.files.atomic import (
    atomic_file,
    atomic_folder,
    read_folder,
    sha256,
    write_bytes,
    write_text,
)
from unspoken.files.faults import fault, writing
from unspoken.files.names import file_name
from unspoken.files.unfinished import sweep

__all__ = [
    "atomic_file",
    "atomic_folder",
    "fault",
    "file_name",
    "read_folder",
    "sha256",
    "sweep",
    "write_bytes",
    "write_text",
    "writing",
]
