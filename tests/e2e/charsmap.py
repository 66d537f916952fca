"""Builds a `precompiled_charsmap`, as SentencePiece writes it and the normalizer Precompiled reads it.

    u32 size of the trie in bytes; the trie: u32 units; the replacements, each ended by a zero byte

A unit is offset << 10 | has a value << 8 | label. From a node at position p with the base b = p ^ offset, the child
along byte c is at b ^ c, and the value, an offset into the replacements, is at b.
"""

import struct


def build(mapping):
    """The bytes for {text: replacement}; texts are not empty and hold no U+0000."""
    texts, replacements = {}, b""
    for key, value in sorted(mapping.items()):
        texts[key.encode()] = len(replacements)
        replacements += value.encode() + b"\0"
    root = {}
    for key, value in texts.items():
        node = root
        for byte in key:
            node = node.setdefault(byte, {})
        node[0] = value
    units, bases = {0: 0}, set()
    free_from = [1]

    def place(node, position):
        labels = sorted(node)
        base = free_from[0]
        while base in bases or any((base ^ label) in units for label in labels):
            base += 1
        bases.add(base)
        offset = position ^ base
        assert offset < 1 << 21
        units[position] |= offset << 10 | (256 if 0 in node else 0)
        for label in labels:
            units[base ^ label] = label
        while free_from[0] in units:
            free_from[0] += 1
        for label in labels:
            if label == 0:
                units[base] = node[0]
            else:
                place(node[label], base ^ label)

    place(root, 0)
    size = (max(units) | 255) + 1  # all that a walk may look at
    array = [units.get(i, 0) for i in range(size)]
    return struct.pack("<I", 4 * size) + struct.pack(f"<{size}I", *array) + replacements
