"""What was measured: a file of lines for each rung, each line a run that was finished, with all that it depends on."""

import contextlib
import fcntl
import json
import os
import pathlib
import platform
from collections.abc import Iterator
from typing import Any

import torch

from .config import Run

FOLDER = pathlib.Path(__file__).parent / "results"


class Results:
    """The lines of all rungs, by the names of their runs: what two rungs have in common is measured once. New ones go
    into the file of the rung for which they were made."""

    def __init__(self, folder: pathlib.Path, rung: str):
        self.path = pathlib.Path(folder) / f"{rung}.jsonl"
        self.by_name: dict[str, dict[str, Any]] = {}
        for path in sorted(pathlib.Path(folder).glob("*.jsonl")):
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:  # of a process that was ended while it wrote
                    continue
                self.by_name[entry["name"]] = entry

    def of(self, run: Run) -> dict[str, Any] | None:
        entry = self.by_name.get(run.name)
        return entry and entry["result"]

    def add(self, run: Run, result: dict[str, Any], seconds: float, device: torch.device) -> None:
        entry = {
            "name": run.name,
            "run": run.to_json(),
            "result": result,
            "seconds": round(seconds, 1),
            "machine": machine(device),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(entry) + "\n"
        with self.path.open("a+b") as file:
            if file.tell() and _last_byte(file) != b"\n":
                line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.by_name[run.name] = entry


def _last_byte(file) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def machine(device: torch.device) -> str:
    """What a run was computed on, in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}"
    return f"{processor()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def alone(folder: pathlib.Path, rung: str) -> Iterator[None]:
    """One process at a time adds to a rung's results; others may have other rungs."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{rung}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another process adds to the results of {rung} in {folder}") from None
        yield
