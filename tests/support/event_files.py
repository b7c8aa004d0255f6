"""Reads TensorBoard's event files from their definition: records with masked CRC-32C, and protocol buffers inside."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """By tag, step and value of every scalar in the one event file of a folder."""
    (file,) = folder.glob("events.out.tfevents.*")
    found: dict[str, list[tuple[int, float]]] = {}
    for record in _records(file.read_bytes()):
        event = dict(_fields(record))
        for number, value in _fields(event.get(5, b"")):  # Event.summary = 5, of which Summary.value = 1
            assert number == 1
            item = dict(_fields(value))  # tag = 1, simple_value = 2
            (number_,) = struct.unpack("<f", item[2])
            found.setdefault(item[1].decode(), []).append((event.get(2, 0), number_))  # Event.step = 2
    return found


def _records(data: bytes) -> Iterator[bytes]:
    """TFRecord: length uint64, its checksum, the record, its checksum."""
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        record = data[12 : 12 + length]
        assert data[8:12] == _checksum(data[:8])
        assert data[12 + length : 16 + length] == _checksum(record)
        yield record
        data = data[16 + length :]


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Number and value of each field of a protocol buffer."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        length = {1: 8, 5: 4}[kind] if kind != 2 else varint()
        yield number, message[place : place + length]
        place += length
