"""The student of an ensemble: an ordinary run on the members' training rows, with the mean of their outputs."""

import json
import logging
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from finetune_api.combine import CombineConfig
from finetune_api.run import (
    DatasetInput,
    DistillationInput,
    ExitCode,
    FaultPlace,
    OutputPaths,
    RunConfig,
    RunReport,
)
from finetune_trainer.combine.members import Member
from finetune_trainer.combine.pipeline import longest_of_all, setting_of
from finetune_trainer.combine.rows import NOTHING_PUBLISHED, labelled
from finetune_trainer.combine.scoring import load
from finetune_trainer.combine.teachers import DEFAULT_TEMPERATURE, TEACHERS, Teachers
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.encoding import Encoding
from finetune_trainer.data.sources import FileIndex
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.hub.fetch import fetch
from finetune_trainer.models.adapter_folder import check_model
from finetune_trainer.models.embeddings import add_tokens
from finetune_trainer.models.folder import ModelFolder
from finetune_trainer.models.tokenizer import load_tokenizer
from finetune_trainer.objectives import OBJECTIVES
from finetune_trainer.process.launch import Process, launch
from finetune_trainer.process.stop import Stop
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.training.assembly import limit_tokens
from finetune_trainer.training.base_model import find_base
from finetune_trainer.training.inputs import TOKENS, stop_if_asked
from finetune_trainer.training.run import run
from finetune_trainer.training.teaching import rows_digest

logger = logging.getLogger(__name__)


class Lesson(NamedTuple):
    """What the student is taught."""

    max_tokens: int
    """That members and student take."""
    given: DistillationInput


def train_student(
    config: CombineConfig,
    members: list[Member],
    train: FileIndex,
    recorder: Recorder,
    stop: Stop,
    threads: int,
) -> tuple[int, RunReport, Path]:
    """Train the student, or go on with what an earlier attempt left of it; exit code, report and folder of its model.

    `train` are the training rows. Raises the errors of finetune_trainer.errors.
    """
    untaught = fetch(student_config(config), recorder, stop)
    folder = check_model(untaught.model, partial(find_base, config=untaught, stop=stop))
    lesson = _lesson(config, members, untaught, folder, train, stop, threads)
    taught = _taught(untaught, lesson)
    code, report = _run(taught, config, recorder, stop, threads)
    return code, report, Path(taught.output.model_dir)


def student_config(config: CombineConfig) -> RunConfig:
    """The student's run without what it is taught: on the rows of the combination, with its adapter merged. Pure."""
    student, data, output = config.student, config.dataset, config.output
    assert student is not None and data.train is not None
    model = student.model
    if model.adapter is not None and model.adapter.lora is not None:
        lora = model.adapter.lora.model_copy(update={"merge": True})
        model = model.model_copy(update={"adapter": model.adapter.model_copy(update={"lora": lora})})
    return RunConfig(
        job=config.job,
        model=model,
        dataset=DatasetInput(
            train=data.train,
            validation=data.validation,
            split=data.split,
            columns=data.columns,
            rows=data.rows,
            preprocessing=data.preprocessing,
            max_invalid_rows=data.max_invalid_rows,
        ),
        objective=student.objective or config.objective,
        training=student.training,
        output=OutputPaths(
            **_folders(student.work_dir),
            hub_dir=output.hub_dir,
            token_dir=output.token_dir or f"{student.work_dir}/{TOKENS}",
            dtype=student.dtype,
        ),
        devices=config.devices,
    )


def _folders(folder: str) -> dict[str, Any]:
    return {
        f"{name}_dir": f"{folder}/{place}"
        for name, place in {"model": "model", "staging": "staging", "checkpoint": "checkpoints"}.items()
    }


def _taught(untaught: RunConfig, lesson: Lesson) -> RunConfig:
    """With what it is taught, and in a folder named after that: what learned from other outputs is another run."""
    cleaning, output = untaught.dataset.preprocessing, untaught.output
    own = Path(output.model_dir).parent / lesson.given.digest.removeprefix("sha256:")[:16]
    limited = {"preprocessing": cleaning.model_copy(update={"max_length": lesson.max_tokens})}
    return untaught.model_copy(
        update={
            "dataset": untaught.dataset.model_copy(update=limited),
            "distillation": lesson.given,
            "output": output.model_copy(update=_folders(str(own))),
        }
    )


def _lesson(
    config: CombineConfig,
    members: list[Member],
    untaught: RunConfig,
    folder: ModelFolder,
    train: FileIndex,
    stop: Stop,
    threads: int,
) -> Lesson:
    assert config.student is not None
    tokenizer = load_tokenizer(members[0].folder, untaught.dataset.preprocessing.truncation.value.lower())
    _check_tokenizer(untaught, folder, members[0], tokenizer)
    able = longest_of_all([*(member.folder.path for member in members), folder.path], tokenizer)
    max_tokens = limit_tokens(untaught.dataset.preprocessing.max_length, able)
    kind = untaught.objective.kind
    objective = OBJECTIVES[kind].build(
        getattr(untaught.objective, kind), members[0].outputs if labelled(config) else None, train.labels
    )
    check = partial(stop_if_asked, stop, NOTHING_PUBLISHED)
    with TokenCache(Path(str(untaught.output.token_dir)), check, shared=True) as cache:
        examples = cache.examples(train.source, objective, Encoding(tokenizer, max_tokens, mask_prompt=False))
    setting = setting_of(config, members, tokenizer, stop, threads)
    distil = config.student.distil
    teachers = Teachers(
        members,
        partial(load, setting=setting),
        examples,
        distil.temperature or DEFAULT_TEMPERATURE,
        setting.batch_size,
        Path(config.student.work_dir) / TEACHERS,
        check,
    )
    return Lesson(max_tokens, teachers.teach(rows_digest(examples, objective), distil.alpha))


def _check_tokenizer(untaught: RunConfig, folder: ModelFolder, first: Member, tokenizer: Any) -> None:
    """Raise ConfigurationError for a student that reads other tokens than the members."""
    own = load_tokenizer(folder, untaught.dataset.preprocessing.truncation.value.lower())
    add_tokens(own, untaught.model.add_tokens)
    if own.get_vocab() != tokenizer.get_vocab():
        raise ConfigurationError(
            f"student.model: the vocabulary of {folder.name} is another one than that of {first.name}: a student reads"
            " the same tokens as its teachers; set model.tokenizer.uri and addTokens as for the members",
            FaultPlace(field="student.model", file=folder.name),
        )


def _run(
    taught: RunConfig, config: CombineConfig, recorder: Recorder, stop: Stop, threads: int
) -> tuple[int, RunReport]:
    """In this process, or in one for each of several GPUs."""
    logger.info(f"training the student in {taught.output.checkpoint_dir}")
    if taught.devices.gpus <= 1:
        return ExitCode.DONE, run(taught, recorder, stop, Process(), threads)
    torch.cuda.empty_cache()
    with TemporaryDirectory(prefix="finetune-") as folder:
        path = Path(folder) / "run.json"
        path.write_text(json.dumps(taught.model_copy(update={"progress": config.progress}).to_json()))
        return launch(path, taught.devices.gpus, stop)
