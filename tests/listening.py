"""A progress listener that keeps the notes it is given."""

from __future__ import annotations

from olmo_dynamics.progress import Progress


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)
