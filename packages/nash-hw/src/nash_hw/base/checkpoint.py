"""What a build has got done, kept in its folder so that ``--resume`` goes on from there.

There is one checkpoint, of the last finished step: the graph as ONNX and a small JSON beside it. The JSON names what
it was made of (the model, the versions, the board, the options); `--resume` of something else is refused and leaves it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from . import json_file
from .errors import IntegrityError, UsageError
from .manifest import atomic_path, file_sha256
from .output import WORK

STATE_FILE = "state.json"


class Checkpoint:
    """The checkpoint of a build in `out`, made of what `key` names."""

    def __init__(self, out: Path, key: dict[str, Any]) -> None:
        self._out = out
        self._work = out / WORK
        self._key = json.loads(json.dumps(key))
        self._graph: dict[str, str] | None = None

    def load(self) -> tuple[dict[str, Any], Path] | None:
        """Return the state that was kept and the path of its graph, None if there is no checkpoint.

        Raises:
            UsageError: it is of another model, board or option; the message names it.
            IntegrityError: it is damaged.
        """
        path = self._work / STATE_FILE
        if not path.exists():
            return None
        advice = "build it anew, without --resume"
        try:
            content = json_file.read(path)
            key, self._graph = content["key"], content["graph"]
            graph = self._out / self._graph["path"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{path}: not a whole checkpoint ({error}); {advice}") from error
        for name in sorted({*self._key, *key}):
            got, expected = key.get(name), self._key.get(name)
            if got != expected:
                raise UsageError(
                    f"--resume: {path} was made with {name} {_brief(got)}, got {_brief(expected)}; {advice}"
                )
        if file_sha256(graph) != self._graph["sha256"]:
            raise IntegrityError(f"{graph}: has changed since it was written; {advice}")
        return content["state"], graph

    def save(self, state: dict[str, Any], model: Any | None = None) -> None:
        """Keep the state after a step, and its graph if the step made a new one."""
        if model is not None:
            with atomic_path(self._work / f"{len(state['done'])}.onnx") as path:
                model.save(str(path))
            self._point_at(self._work / f"{len(state['done'])}.onnx")
        self._write(state)
        kept = self._graph and self._out / self._graph["path"]
        for path in self._work.glob("*.onnx"):
            if model is not None and path != kept:
                path.unlink()

    def finish(self, state: dict[str, Any], graph: Path) -> None:
        """Let the checkpoint of a finished build name the graph that was written, which is its own."""
        self._point_at(graph)
        self._write(state)
        for path in self._work.glob("*.onnx"):
            path.unlink()

    def _point_at(self, graph: Path) -> None:
        self._graph = {"path": os.path.relpath(graph, self._out), "sha256": file_sha256(graph)}

    def _write(self, state: dict[str, Any]) -> None:
        with atomic_path(self._work / STATE_FILE) as path:
            path.write_text(json.dumps({"key": self._key, "graph": self._graph, "state": state}), "utf-8")


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
