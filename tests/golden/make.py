"""Writes the golden frames: ``python -m tests.golden.make``, after a change on the wire.

A golden frame that changes means that programs in the field no longer understand each other:
``docs/protocol.md`` and the wire version change in the same commit.
"""

from pathlib import Path

from remote_env.protocol import encode
from tests.golden.expected import ENCODED_LAYOUTS, GOLDEN, GOLDEN_ENCODED, LAYOUTS


def main() -> None:
    folder = Path(__file__).parent
    for old in folder.glob("*.bin"):
        old.unlink()
    for messages, layouts in ((GOLDEN, LAYOUTS), (GOLDEN_ENCODED, ENCODED_LAYOUTS)):
        for name, message in messages.items():
            frame = b"".join(encode(message, layouts))
            (folder / f"{name}.bin").write_bytes(frame)
            print(f"{name}.bin: {len(frame)} bytes")


if __name__ == "__main__":
    main()
