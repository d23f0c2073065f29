"""Vectors on the wire: arrays of pgvector's binary form, made from numpy without Python floats.

Floor 1. Promise: what is written is bit for bit what the provider sent, rounded only where the column is halfvec.
Source: pgvector's vector_send: int16 dimensions, int16 unused, big-endian components.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types import TypeInfo

_HEADER = struct.Struct(">HH")


class WireVector:
    """One vector in its binary form, for psycopg."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class WireHalfVector(WireVector):
    """The same, of half precision."""

    __slots__ = ()


class _WireDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: WireVector) -> bytes:
        return obj.data


def encode(vectors: NDArray[np.float32], type_name: str) -> list[WireVector]:
    """Return each row of an array (rows x dims) as a vector or halfvec."""
    half = type_name == "halfvec"
    big_endian = np.ascontiguousarray(vectors, dtype=">f2" if half else ">f4")
    header = _HEADER.pack(vectors.shape[1], 0)
    kind = WireHalfVector if half else WireVector
    return [kind(header + row.tobytes()) for row in big_endian]


def decode(data: bytes, type_name: str) -> NDArray[np.float32]:
    """Return a vector's components from its binary form."""
    dims, _ = _HEADER.unpack_from(data)
    kind = ">f2" if type_name == "halfvec" else ">f4"
    return np.frombuffer(data, dtype=kind, count=dims, offset=_HEADER.size).astype("<f4")


def kind_of(data: bytes, dims: int) -> str | None:
    """Return which type's binary form of so many dimensions this is, or None where it has others."""
    sizes = {_HEADER.size + 4 * dims: "vector", _HEADER.size + 2 * dims: "halfvec"}
    found, _ = _HEADER.unpack_from(data)
    return sizes.get(len(data)) if found == dims else None


def decode_all(rows: Sequence[bytes], type_name: str, dims: int) -> NDArray[np.float32]:
    """Return many vectors of equal dimensions as one array (rows x dims)."""
    joined = b"".join(rows)
    kind = ">f2" if type_name == "halfvec" else ">f4"
    size = np.dtype(kind).itemsize * dims + _HEADER.size
    flat = np.frombuffer(joined, dtype=np.uint8).reshape(len(rows), size)[:, _HEADER.size :]
    return np.ascontiguousarray(flat).view(kind).astype("<f4")


async def register(connection: psycopg.AsyncConnection[Any], schema: str) -> None:
    """Teach a connection pgvector's types, once; `schema` is where the extension lives."""
    if getattr(connection, "_migrator_vectors", False):
        return
    for name, kind in (("vector", WireVector), ("halfvec", WireHalfVector)):
        found = await TypeInfo.fetch(connection, psycopg.sql.Identifier(schema, name))
        if found is None:
            continue
        found.register(connection)
        dumper = type(f"_{name}_dumper", (_WireDumper,), {"oid": found.oid})
        connection.adapters.register_dumper(kind, dumper)
    connection._migrator_vectors = True  # type: ignore[attr-defined]  # noqa: SLF001 - our own mark
