"""The parent of a trainer: it passes on and keeps the log, and watches for a step that does not end.

A process cannot end itself while C code holds the interpreter's lock, and process 1 of a container cannot be killed
from inside. So the trainer is a child, forked before it has threads or torch.
"""

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from finetune_api.base import MESSAGE_LENGTH
from finetune_api.run import ExitCode, RunReport, to_message
from finetune_trainer.process.heartbeat import DUMP, FOLDER, Beat, Beats
from finetune_trainer.process.kept_log import Relay

STARTED_BY = "FINETUNE_STARTED_BY"
"""Variable: the process without which the run stops, as it would on SIGTERM."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STACK_LINES = 20
_STACK_CHARACTERS = 1900
_LOOK_SECONDS = 0.5
_DUMP_SECONDS = 5.0
_PLAN = "plan.json"
_DEATH_SIGNAL_OF_PARENT = 1


@dataclass(frozen=True)
class Places:
    """What the trainer tells its parent: where stacks, report and log are to be written."""

    attempt: int
    stacks: str
    report: str | None
    log: str | None = None

    def tell(self) -> None:
        """Nobody listens where nobody watches."""
        if folder := os.environ.get(FOLDER):
            (Path(folder) / _PLAN).write_text(json.dumps(self.__dict__))


def supervised(run: Callable[[], int]) -> int:
    """Run in a child, and return its exit code; STALLED if it takes no step for too long."""
    _stop_with(os.environ.get(STARTED_BY))
    with TemporaryDirectory(prefix="finetune-beats-") as folder:
        beats = Beats(Path(folder))
        os.environ[FOLDER] = folder
        supervisor = _Supervisor(beats)
        supervisor.listen()
        parent, child = os.getpid(), os.fork()
        if child == 0:
            supervisor.relay.in_child()
            return _as_child(run, parent)
        supervisor.child = child
        supervisor.relay.in_parent()
        try:
            return supervisor.watch()
        finally:
            supervisor.relay.close()


def _as_child(run: Callable[[], int], parent: int) -> int:
    for number in FORWARDED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()  # a Ctrl-C reaches it through its parent, and once
    _die_with(parent, signal.SIGKILL)
    code = 1
    try:
        code = run()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 - as Python itself ends on an exception
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the folder of the beats is the parent's


def _stop_with(starter: str | None) -> None:
    if starter:
        _die_with(int(starter), signal.SIGTERM)


def _die_with(parent: int, number: int) -> None:
    """Get a signal when the parent ends (prctl(2)), or now if it has."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL_OF_PARENT, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


class _Supervisor:
    def __init__(self, beats: Beats) -> None:
        self.beats = beats
        self.child = 0
        self.relay = Relay(self._log)
        self._early: list[int] = []

    def listen(self) -> None:
        for number in FORWARDED:
            signal.signal(number, self._forward)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        if self.child:
            os.kill(self.child, number)
        else:
            self._early.append(number)

    def watch(self) -> int:
        """Until the child has ended, or is killed because it takes no step."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        for number in self._early:
            os.kill(self.child, number)
        while True:
            pid, status = os.waitpid(self.child, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else self._killed(-code)
            stalled = {slot: beat for slot, beat in self.beats.read().items() if _late(beat)}
            if stalled:
                return self._end(stalled)
            signal.sigtimedwait({signal.SIGCHLD}, _LOOK_SECONDS)

    def _killed(self, number: int) -> int:
        name = signal.Signals(number).name
        hint = (
            "; the kernel does this when memory runs out, so check the memory limit"
            if number == signal.SIGKILL
            else ""
        )
        self.relay.say(f"finetune_trainer: killed by {name}{hint}")
        return 128 + number

    def _end(self, stalled: dict[int, Beat]) -> int:
        """Collect the stacks, kill the processes, and report."""
        places = self._places()
        beats = self.beats.read()
        stacks = {slot: self._stack_of(slot, beat) for slot, beat in beats.items()}
        os.kill(self.child, signal.SIGKILL)
        for beat in beats.values():
            _kill(beat.pid)
        os.waitpid(self.child, 0)
        text = "".join(f"process {slot}, pid {beats[slot].pid}:\n{stack}\n" for slot, stack in stacks.items())
        self.relay.say(text)
        report = _report_of(stalled, stacks, places, _kept(text, places))
        self.relay.say(f"finetune_trainer: exit {ExitCode.STALLED:d}: {report.message}")
        if places and places.report:
            try:
                Path(places.report).write_text(to_message(report))
            except OSError as error:
                print(f"cannot write the report to {places.report}: {error}", file=sys.stderr)
        return ExitCode.STALLED

    def _places(self) -> Places | None:
        try:
            return Places(**json.loads((self.beats.folder / _PLAN).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _log(self) -> Path | None:
        places = self._places()
        return Path(places.log) if places and places.log else None

    def _stack_of(self, slot: int, beat: Beat) -> str:
        """The stack of every thread of a process; a process that waits for a disk may not answer."""
        path, size = self.beats.stack_file(slot), 0
        try:
            os.kill(beat.pid, DUMP)
        except ProcessLookupError:
            return "(it has ended)"
        until = time.monotonic() + _DUMP_SECONDS
        while time.monotonic() < until:
            time.sleep(0.2)
            before, size = size, path.stat().st_size
            if size and size == before:
                break
        return path.read_text(errors="replace") or "(it does not answer)"


def _late(beat: Beat) -> bool:
    return 0 < beat.deadline < time.monotonic()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _kept(text: str, places: Places | None) -> str:
    """The stacks beside the checkpoints; where they are, as part of a sentence."""
    if places is None:
        return "in the log"
    try:
        Path(places.stacks).parent.mkdir(parents=True, exist_ok=True)
        Path(places.stacks).write_text(text)
    except OSError:
        return "in the log"
    return f"in the log and in {places.stacks}"


def _report_of(
    stalled: dict[int, Beat], stacks: dict[int, str], places: Places | None, where: str
) -> RunReport:
    slot, beat = min(stalled.items())
    main = main_thread(stacks[min(stacks)])
    at = f"; process {min(stacks)} was in {main[0].removeprefix('File ')}" if main else ""
    message = (
        f"step {beat.step} did not end within {beat.allowed:.0f} s on process {slot}: the run stalls. The stacks of"
        f" {len(stacks)} processes are {where}{at}"
    )
    return RunReport(
        attempt=places.attempt if places else 1,
        exit_code=ExitCode.STALLED,
        message=message[:MESSAGE_LENGTH],
        traceback="\n".join(main)[:_STACK_CHARACTERS] or None,
    )


def main_thread(stack: str) -> list[str]:
    """The innermost lines of the last thread that faulthandler wrote, which is the main one."""
    lines = [line.strip() for line in stack.splitlines()]
    begins = [number for number, line in enumerate(lines) if "(most recent call first)" in line]
    if not begins:
        return []
    return [line for line in lines[begins[-1] + 1 :] if line.startswith("File ")][:STACK_LINES]
