"""What is kept on disk is checked before it is used: JSON and tensors, under a digest.

A digest is a SHA-256 over the content: names, types, shapes and bytes of tensors, and JSON without
its white space. It finds damage. It does not stop intent, because whoever can write a file can
write its digest as well. Only messages can have a seal against intent, see `unspoken.wire.seal`.

Under a digest are pools, projectors, adapters, checkpoints, stored states, kept answers, results,
pair.json, trained planners, published fusers that were written here, the lines and messages of an
audit, and conversions. What was made without one, elsewhere or by version 0.1, is held against all
else that is known of it: keys, types, shapes, and that its numbers are finite.
"""

from unspoken.kept.content import (
    DIGEST,
    check_keys,
    content_digest,
    digested,
    opened,
    parse,
    read_json,
)
from unspoken.kept.folders import FILES, advising, check_files, set_aside, write_files
from unspoken.kept.tensors import Tensors, check_finite, check_tensors, load, load_weights, save

__all__ = [
    "DIGEST",
    "FILES",
    "Tensors",
    "advising",
    "check_files",
    "check_finite",
    "check_keys",
    "check_tensors",
    "content_digest",
    "digested",
    "load",
    "load_weights",
    "opened",
    "parse",
    "read_json",
    "save",
    "set_aside",
    "write_files",
]
