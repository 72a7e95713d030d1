"""`finetune data show`: rows as the trainer sees them, by the trainer's own code in a process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.text import Text

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.overrides import OverrideError, overridden, read_assignment
from finetune_api.run import ExitCode, RunConfig
from finetune_cli.errors import CommandError
from finetune_cli.files import only_job
from finetune_cli.local.planning import Folders, local_config, missing_folders, planned_job, stored, unfit
from finetune_cli.local.trainer import TRAINER, now

Json = dict[str, Any]

PREVIEW = f"{TRAINER}.preview"
_SPACES = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "⏎", "\n": "⏎"})


def config_of_job(
    file: Path, claims: Mapping[str, Path], config_maps: Mapping[str, Path], scratch: Path
) -> RunConfig:
    """The RunConfig of a job's first attempt, with folders for its volumes. Raises CommandError."""
    written = only_job(file)
    spec = FineTuneJobSpec.from_json(written["spec"])
    if why := unfit(spec):
        raise CommandError(why, ExitCode.CONFIGURATION)
    job, resolved = planned_job(stored(written, now()), gpus=0)
    output = spec.output and spec.output.uri
    own = {output.split("/")[2]: scratch} if output else {}
    folders = Folders(own | dict(claims), config_maps, scratch)
    if missing := list(missing_folders(job, folders)):
        raise CommandError(
            f"the job reads volumes that have no folder here; add {' '.join(missing)}", ExitCode.NOT_FOUND
        )
    alone = replace(job, spec=job.spec.model_copy(update={"search": None, "ensemble": None}))
    wire = local_config(alone, resolved, 1, folders, scratch / "report.json")
    wire["output"].pop("hubDir", None)  # the cache of the user's own downloads
    return RunConfig.from_json(wire)


def config_of_data(data: Path, model: Path, objective: str, changes: list[str], scratch: Path) -> RunConfig:
    """A RunConfig for a data file and the folder of a model; `changes` are PATH=VALUE. Raises CommandError."""
    if not data.exists():
        raise CommandError(f"{data} does not exist", ExitCode.NOT_FOUND)
    wire: Json = {
        "job": {"name": "preview"},
        "model": {"path": str(model)},
        "dataset": {"train": {"path": str(data)}},
        "objective": {objective: {}},
        "output": {
            "modelDir": str(scratch / "model"),
            "stagingDir": str(scratch / "staging"),
            "checkpointDir": str(scratch / "checkpoints"),
        },
    }
    try:
        return RunConfig.from_json(overridden(wire, dict(map(read_assignment, changes)), RunConfig))
    except (OverrideError, ValueError) as error:
        raise CommandError(str(error), ExitCode.CONFIGURATION) from error


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with TemporaryDirectory(prefix="finetune-") as folder:
        yield Path(folder)


def previewed(config: RunConfig, part: str, rows: int, scratch: Path) -> list[Json]:
    """What the trainer prints: a summary, then the rows. Raises CommandError with the trainer's sentence and code."""
    if find_spec(TRAINER) is None:
        raise CommandError(
            "the trainer is not installed here; in a clone of the project: pip install '.[cli,trainer]'"
        )
    run_json = scratch / "run.json"
    run_json.write_text(json.dumps(config.to_json()), encoding="utf-8")
    command = [sys.executable, "-P", "-m", PREVIEW, str(run_json), "--part", part, "--rows", str(rows)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        message = last.removeprefix("finetune_trainer: ").removeprefix(f"exit {done.returncode}: ")
        raise CommandError(message, done.returncode)
    return [json.loads(line) for line in done.stdout.splitlines()]


def show(found: list[Json], console: Console) -> None:
    """The summary, then each row: its place, its text, its tokens, which of them are learned, and what is cut."""
    summary, *rows = found
    files = summary["files"]
    counts = [f"{summary['rows']} {summary['part']} rows", f"at most {summary['maxTokens']} tokens"]
    counts += [f"{files[key]} {text}" for key, text in _COUNTS.items() if files.get(key)]
    console.print(", ".join(counts), markup=False)
    if template := summary.get("chatTemplate"):
        console.print(f"chat template: {template}; learned: {summary['train']}", markup=False)
    for note in summary["notes"]:
        console.print(f"warning: {note}", markup=False)
    for row in rows:
        _show_row(row, console)


_COUNTS = {"invalidRows": "invalid rows skipped", "duplicateRows": "duplicates dropped"}


def _show_row(row: Json, console: Console) -> None:
    console.print(f"\n{row['file']}, row {row['row']}" + _label(row.get("label")), markup=False)
    if messages := row.get("messages"):
        _show_messages(messages, row.get("tools", []), console)
    for name in ("prompt", "text", "rejected", "textPair") if not messages else ():
        if (text := row.get(name)) is not None:
            console.print(f"  {name}: {text if isinstance(text, str) else ' '.join(text)}", markup=False)
    if not row["tokens"]:
        console.print(f"  dropped, as all conversations that {row['dropped']}", markup=False)
        return
    learned = row.get("learned")
    marked = Text("  tokens: ")
    for number, token in enumerate(row["tokens"]):
        if number == row.get("secondAt"):
            marked.append("\n  against: ")
        shown = str(token).translate(_SPACES)
        style = "bold" if learned and learned[number] else "dim" if learned else ""
        marked.append("[" + shown + "]" if learned and learned[number] else shown, style)
        marked.append(" ")
    console.print(marked)
    if learned:
        console.print(f"  learned: {sum(learned)} of {len(learned)} tokens, those in brackets", markup=False)
    if row["cut"]:
        lost = f", with the end of {row['cutTurns']} learned turns" if row.get("cutTurns") else ""
        console.print(
            f"  cut: {row['cut']} tokens beyond dataset.preprocessing.maxLength{lost}", markup=False
        )


def _show_messages(messages: list[Json], tools: list[Json], console: Console) -> None:
    if tools:
        console.print(f"  tools: {', '.join(tool['function']['name'] for tool in tools)}", markup=False)
    for message in messages:
        calls = [
            f"{call['function']['name']}({json.dumps(call['function']['arguments'], ensure_ascii=False)})"
            for call in message.get("tool_calls", [])
        ]
        said = " ".join(filter(None, [message.get("content", ""), *calls]))
        console.print(f"  {message['role']}: {said}", markup=False)
        if thoughts := message.get("reasoning_content"):
            console.print(f"    thoughts: {thoughts}", markup=False)


def _label(label: Any) -> str:
    return "" if label is None else f", label {json.dumps(label, ensure_ascii=False)}"
