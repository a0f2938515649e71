"""One observation out of all buffers, by reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from remote_env.protocol.records import record
from remote_env_server.buffers import CameraBuffer, Field, ProprioBuffer

__all__ = ["Snapshot", "take_snapshot"]


@record(frozen=True, slots=True, eq=False)
class Snapshot(Mapping[str, NDArray[Any]]):
    """The newest capture of every stream, as one mapping from stream name to array.

    Arrays are read-only and stay as they are: a later capture goes elsewhere.

    Attributes:
        fields: By stream name, with stamps and sequence numbers.
        incoherent: Cameras whose fields come from different captures.
        timestamp: What the robot's author passed to ``make_obs``, in seconds, or None.
    """

    fields: Mapping[str, Field]
    incoherent: tuple[str, ...] = ()
    timestamp: float | None = None

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.fields[name].array

    def __iter__(self) -> Any:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)


def take_snapshot(
    cameras: Mapping[str, CameraBuffer],
    proprios: Mapping[str, ProprioBuffer],
    *,
    timestamp: float | None = None,
) -> Snapshot:
    """Take the newest record of every buffer; copies nothing, holds each lock for a read."""
    fields: dict[str, Field] = {}
    incoherent = []
    for name, camera in cameras.items():
        record = camera.read()
        fields.update(record.streams)
        if not record.is_coherent:
            incoherent.append(name)
    for name, proprio in proprios.items():
        fields[name] = proprio.read()
    return Snapshot(fields, tuple(incoherent), timestamp)
