"""Several ranks: the update of one process, and one decision for all, whatever happens to one of them.

Every rank is a process of its own, forked from this one, over gloo. All of them end in time, or the test fails.
"""

import os
import signal

import numpy as np
import pytest

from finetune_api.training import Sharding
from finetune_trainer.errors import (
    ConfigurationError,
    DeviceMemoryError,
    DivergedError,
    PeerLostError,
    PrunedError,
    StoppedError,
)
from unit.trainer.runs import (
    OBJECTIVES,
    a_run,
    checkpoints_in,
    examples,
    largest_difference,
    on_ranks,
    weights,
)

SGD = {"name": "SGD", "learningRate": 0.5, "weightDecay": 0.0}
TRAINING = {"maxSteps": 4, "batchSize": 7, "microBatchSize": 3, "checkpoint": {"every": {"steps": 2}}}


@pytest.fixture(autouse=True, scope="module")
def _imported():
    """Once here, not in every forked process."""
    import torch

    torch.set_num_threads(1)
    for objective in OBJECTIVES:
        a_run(objective)


def trained(ranks=None, objective="classification", **training):
    """Weights, evaluations and positions after training."""
    from finetune_trainer.training.loop import train

    run, state = a_run(objective, ranks, **(TRAINING | {"optimizer": SGD} | training))
    train(run, state)
    return weights(run), [(e.step, e.eval_loss, e.metrics) for e in state.evaluations], state.tokens


@pytest.mark.parametrize(("world", "sharding"), [(2, "None"), (2, "Full"), (4, "None"), (4, "Full")])
def test_training_is_that_of_one_process_for_every_objective(tmp_path, world, sharding):
    """23 rows in batches of 7: of the last one's 2 rows two ranks of four have none, of 7 rows ranks have 4 and 3."""

    def body(ranks):
        return {objective: trained(ranks, objective) for objective in OBJECTIVES}

    alone = {objective: trained(None, objective) for objective in OBJECTIVES}
    for together in on_ranks(world, body, tmp_path, Sharding(sharding)):
        for objective, (expected, evaluations, tokens) in alone.items():
            got, their_evaluations, their_tokens = together[objective]
            assert largest_difference(expected, got) < 1e-6, objective
            assert tokens == their_tokens
            for mine, theirs in zip(evaluations, their_evaluations, strict=True):
                assert mine[0] == theirs[0]
                assert mine[1] == pytest.approx(theirs[1], abs=1e-5)
                assert mine[2] == pytest.approx(theirs[2], abs=1e-5)


@pytest.mark.parametrize("sharding", list(Sharding))
def test_a_last_batch_of_one_row_and_fewer_validation_rows_than_ranks_change_nothing(tmp_path, sharding):
    """Four ranks: of the fourth batch of 22 rows only one has a row, and of two validation rows two have none."""

    def trained_on_few(objective, ranks=None):
        from finetune_trainer.training.loop import train

        run, state = a_run(objective, ranks, count=22, **(TRAINING | {"optimizer": SGD}))
        run.validation = examples(objective, 2, seed=1)
        train(run, state)
        sizes = sorted(len(run.batch(step)) for step in range(4))
        return sizes, weights(run), state.evaluations[-1].eval_loss

    def body(ranks):
        return {objective: trained_on_few(objective, ranks) for objective in objectives}

    objectives = ("classification", "token classification")
    alone = {objective: trained_on_few(objective) for objective in objectives}
    for together in on_ranks(4, body, tmp_path, sharding):
        for objective, (sizes, expected, loss) in alone.items():
            assert sizes == [1, 7, 7, 7]
            _, found, their_loss = together[objective]
            assert largest_difference(expected, found) < 1e-6, objective
            assert loss == pytest.approx(their_loss, abs=1e-5)


@pytest.mark.parametrize("sharding", list(Sharding))
def test_adamw_over_ranks_makes_the_steps_of_one_process(tmp_path, sharding):
    """But for gradients near zero, whose rounding AdamW magnifies: a tenth of the learning rate is allowed."""

    def body(ranks):
        return {objective: trained(ranks, objective, optimizer=adamw)[0] for objective in OBJECTIVES}

    adamw = {"name": "AdamW", "learningRate": 1e-3}
    alone = {objective: trained(None, objective, optimizer=adamw)[0] for objective in OBJECTIVES}
    for together in on_ranks(2, body, tmp_path, sharding):
        for objective, expected in alone.items():
            assert largest_difference(expected, together[objective]) < 1e-4, objective


WITHOUT_IMPROVEMENT = {"maxSteps": 12, "evaluation": {"every": {"steps": 2}}}


@pytest.mark.parametrize("sharding", list(Sharding))
def test_all_ranks_stop_early_at_the_step_of_one_process(tmp_path, sharding):
    """No improvement is large enough, so of evaluations at steps 2, 4 and 6 the third is the last."""

    def stopped(ranks=None):
        from finetune_trainer.training.loop import train

        patient = {"earlyStopping": {"patience": 2, "minDelta": 10}}
        run, state = a_run("classification", ranks, **(TRAINING | WITHOUT_IMPROVEMENT | patient))
        train(run, state)
        return state.step, state.patience

    first, second = on_ranks(2, stopped, tmp_path, sharding)
    assert first == second
    for step, patience in (first, stopped()):
        assert (step, patience.bad_evaluations) == (6, 2)


@pytest.mark.parametrize("sharding", list(Sharding))
def test_all_ranks_lower_the_rate_on_a_plateau_as_one_process_does(tmp_path, sharding):
    """Evaluations at steps 4 and 6 show no improvement over the first: each halves the rate."""

    def rates(ranks=None):
        from finetune_trainer.training.loop import train

        plateau = {"name": "Plateau", "warmup": {"steps": 0}, "plateau": {"patience": 0, "minDelta": 10}}
        plan = WITHOUT_IMPROVEMENT | {"maxSteps": 8, "schedule": plateau}
        run, state = a_run("classification", ranks, **(TRAINING | plan | {"optimizer": SGD}))
        used = []
        run.optimizer.register_step_pre_hook(
            lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"])
        )
        train(run, state)
        return used

    expected = rates()
    assert expected == [0.5] * 4 + [0.25] * 2 + [0.125] * 2
    assert on_ranks(2, rates, tmp_path, sharding) == [expected] * 2


def padded(*slices):
    """Positions of slices of examples, each padded to its longest."""
    return sum(len(lengths) * max(lengths) for lengths in slices)


def test_every_rank_knows_how_many_tokens_all_of_them_computed(tmp_path):
    """In micro-batches of 3, of 7 rows rank 0 has 4, and rank 1, which has 3, computes the last once more with it."""

    def body(ranks):
        from finetune_trainer.training.loop import train

        run, state = a_run("classification", ranks, **(TRAINING | {"maxSteps": 2}))
        train(run, state)
        return state.computed_tokens

    run, _ = a_run("classification", **TRAINING)
    seven, two = (run.train.lengths[run.batch(step)] for step in range(2))
    assert (len(seven), len(two)) == (7, 2)
    expected = padded(seven[[0, 2, 4]], seven[[6]], seven[[1, 3, 5]], seven[[6]], two[[0]], two[[1]])
    assert on_ranks(2, body, tmp_path) == [expected, expected]


def test_dropout_differs_between_ranks_and_every_rank_has_the_same_weights(tmp_path):
    import torch

    def body(ranks):
        from finetune_trainer.training.loop import train

        run, state = a_run("classification", ranks, dropout=0.3, **TRAINING)
        drawn = torch.rand(4, generator=torch.default_generator.clone_state()).tolist()
        train(run, state)
        return drawn, weights(run)

    (drawn, left), (drawn_there, right) = on_ranks(2, body, tmp_path)
    assert drawn != drawn_there
    assert all(np.array_equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("clipping", [{"maxNorm": 0.01}, {"maxValue": 0.001}])
@pytest.mark.parametrize("sharding", list(Sharding))
def test_clipping_bounds_the_gradient_that_all_ranks_have_together(tmp_path, sharding, clipping):
    training = {"maxSteps": 2, "gradientClipping": clipping}
    expected, *_ = trained(**training)
    assert largest_difference(expected, trained(maxSteps=2)[0]) > 1e-2
    for together, *_ in on_ranks(2, lambda ranks: trained(ranks, **training), tmp_path, sharding):
        assert largest_difference(expected, together) < 1e-6


def test_sharding_divides_every_parameter_and_its_optimizer_state(tmp_path):
    def body(ranks):
        from torch.distributed.tensor import DTensor

        from finetune_trainer.training.loop import train

        run, state = a_run("classification", ranks, **TRAINING)
        train(run, state)
        parameters = list(run.task.model.parameters())
        assert all(isinstance(parameter, DTensor) for parameter in parameters)
        moments = [run.optimizer.state[parameter]["exp_avg"].to_local().numel() for parameter in parameters]
        return sum(moments), sum(parameter.numel() for parameter in parameters)

    (mine, everything), (other, _) = on_ranks(2, body, tmp_path, Sharding.FULL)
    assert mine + other == everything
    assert abs(mine - other) < 0.1 * everything


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("sharding", list(Sharding))
def test_one_signalled_rank_stops_all_at_the_same_step_with_a_checkpoint(tmp_path, sharding, world):
    def body(ranks):
        from finetune_trainer.training.loop import train

        saved = []
        run, state = a_run("classification", ranks, save=lambda state: saved.append(state.step), **TRAINING)
        if ranks.rank == 1:
            run.stop.listen()
            run.optimizer.register_step_post_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(StoppedError, match="stopped by SIGTERM at step 2; checkpoint saved"):
            train(run, state)
        return saved

    assert on_ranks(world, body, tmp_path, sharding) == [[2]] * world


def test_a_stop_during_evaluation_reaches_all_ranks(tmp_path):
    def body(ranks):
        run, _ = a_run("classification", ranks, **TRAINING)
        run.stop.requested = ranks.rank == 1
        return run.evaluator.evaluate(run.validation, 2), run.stopping, run.task.model.training

    assert on_ranks(2, body, tmp_path) == [(None, True, True)] * 2


def test_a_trial_pruned_through_rank_0_ends_on_all_ranks_at_the_same_step_and_saves_nothing(tmp_path):
    def body(ranks):
        from finetune_trainer.training.loop import train

        saved = []
        run, state = a_run("classification", ranks, save=lambda state: saved.append(state.step), **TRAINING)
        if ranks.is_main:
            steps = iter(range(1, 9))
            run.optimizer.register_step_post_hook(lambda *_: next(steps) == 3 and run.stop.prune("too slow"))
        with pytest.raises(PrunedError) as caught:
            train(run, state)
        return caught.value.message, state.step, saved

    (message, step, saved), there = on_ranks(2, body, tmp_path)
    assert (message, step, saved) == there
    assert message == "pruned at step 4: eval_loss was not measured yet; too slow"
    assert (step, saved) == (4, [2])


def test_a_pruning_during_evaluation_reaches_all_ranks(tmp_path):
    def body(ranks):
        run, _ = a_run("classification", ranks, **TRAINING)
        if ranks.is_main:
            run.stop.prune("too slow")
        return run.evaluator.evaluate(run.validation, 2), run.stopping, run.stop.pruned

    assert on_ranks(2, body, tmp_path) == [(None, True, "too slow")] * 2


def test_a_rank_that_is_signalled_first_is_stopped_and_not_pruned():
    run, _ = a_run("classification")
    run.stop.requested = True
    run.stop.prune("too slow")
    assert isinstance(run.stop.to_error(""), StoppedError)


@pytest.mark.parametrize("sharding", list(Sharding))
def test_a_nan_on_one_rank_stops_all_before_the_update_and_names_the_row(tmp_path, sharding):
    def body(ranks):
        from finetune_trainer.training.loop import train

        run, state = a_run("regression", ranks, **(TRAINING | {"batchSize": 23}))
        run.train.targets[16] = np.nan
        before = weights(run)
        with pytest.raises(DivergedError) as caught:
            train(run, state)
        return caught.value.message, state.step, largest_difference(before, weights(run))

    for message, step, difference in on_ranks(2, body, tmp_path, sharding):
        assert "diverged at step 1: the loss is nan on train.jsonl row 17;" in message
        assert (step, difference) == (0, 0.0)


def full_at(run, number):
    """A device that is full in the n-th forward pass."""
    passes = iter(range(1, 10**9))

    def fail(*_):
        if next(passes) == number:
            raise __import__("torch").OutOfMemoryError("CUDA out of memory")

    run.task.model.register_forward_pre_hook(fail)


def test_out_of_memory_on_one_rank_halves_the_micro_batch_of_all_and_changes_no_update(tmp_path):
    def body(ranks):
        from finetune_trainer.training.loop import train

        run, state = a_run("classification", ranks, **(TRAINING | {"optimizer": SGD}))
        if ranks.rank == 1:
            full_at(run, 2)
        train(run, state)
        return weights(run), state.micro_batch_size

    expected, *_ = trained()
    for got, size in on_ranks(2, body, tmp_path):
        assert size == 1
        assert largest_difference(expected, got) < 1e-6


def test_out_of_memory_in_an_evaluation_on_one_rank_is_no_end(tmp_path):
    def body(ranks):
        run, _ = a_run("classification", ranks)
        if ranks.rank == 1:
            full_at(run, 1)
        return run.evaluator.evaluate(run.validation, 8)

    run, _ = a_run("classification")
    expected = run.evaluator.evaluate(run.validation, 8)
    for scores in on_ranks(2, body, tmp_path):
        assert scores == pytest.approx(expected, abs=1e-6)


def test_out_of_memory_with_sharding_ends_all_ranks(tmp_path):
    def body(ranks):
        from finetune_trainer.training.loop import train

        run, state = a_run("classification", ranks, **TRAINING)
        if ranks.rank == 1:
            full_at(run, 2)
        train(run, state)

    lost, full = on_ranks(2, body, tmp_path, Sharding.FULL)
    assert isinstance(lost, PeerLostError)
    assert isinstance(full, DeviceMemoryError)
    assert "lower training.microBatchSize" in full.message


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("sharding", list(Sharding))
def test_a_killed_rank_is_noticed_at_once(tmp_path, sharding, world):
    def body(ranks):
        from finetune_trainer.training.loop import train

        run, state = a_run("classification", ranks, **TRAINING)
        if ranks.rank == 1:
            run.optimizer.register_step_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        train(run, state)

    first, killed, *others = on_ranks(world, body, tmp_path, sharding)
    assert killed is None
    assert all(isinstance(lost, PeerLostError) for lost in (first, *others))


@pytest.mark.parametrize("sharding", list(Sharding))
def test_a_checkpoint_of_several_ranks_resumes_exactly_on_them_and_loads_on_one(tmp_path, sharding):
    """With dropout: the random state of every rank is part of it."""
    folder = tmp_path / "checkpoints"

    def body(ranks):
        from finetune_trainer.training.loop import train

        run, state = a_run("classification", ranks, dropout=0.3, **TRAINING)
        run.checkpoints = checkpoints_in(folder, run)
        train(run, state)
        undisturbed = weights(run)
        run, _ = a_run("classification", ranks, dropout=0.3, **TRAINING)
        run.checkpoints = checkpoints_in(folder, run)
        state = run.checkpoints.restore(before=4)
        assert state.step == 2
        saved = weights(run)
        train(run, state)
        resumed = weights(run)
        assert all(np.array_equal(undisturbed[name], resumed[name]) for name in resumed)
        return saved

    saved, _ = on_ranks(2, body, tmp_path, sharding)
    alone, _ = a_run("classification")
    assert checkpoints_in(folder, alone).restore(before=4).step == 2
    assert all(np.array_equal(value, saved[name]) for name, value in weights(alone).items())
    assert all(len(values) == 3 for values in alone.optimizer.state.values())


def joined_alone():
    """A library that asked for PartialState before the ranks joined, in an environment without ranks."""
    from accelerate import PartialState

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        os.environ.pop(name, None)
    PartialState(cpu=True)


@pytest.mark.parametrize(
    ("before", "found"),
    [
        (joined_alone, "rank 0 of 1 by None on cpu"),
        (lambda: os.environ.update(ACCELERATE_TORCH_DEVICE="meta"), "rank {} of 2 by gloo on meta"),
    ],
    ids=["alone", "on another device"],
)
def test_a_rank_that_would_train_alone_or_elsewhere_is_an_error(tmp_path, before, found):
    for rank, error in enumerate(on_ranks(2, lambda ranks: ranks.rank, tmp_path, before=before)):
        assert isinstance(error, ConfigurationError)
        assert error.message.startswith(
            f"this process should be rank {rank} of 2 by gloo on cpu, but joined as"
        )
        assert found.format(rank) in error.message


def test_variables_of_other_launchers_do_not_change_who_joins(tmp_path):
    def before():
        os.environ.update(RANK="5", WORLD_SIZE="7", LOCAL_RANK="3", OMPI_COMM_WORLD_SIZE="9", PMI_RANK="4")

    def body(ranks):
        return ranks.rank, ranks.world_size, ranks.all_gather(ranks.rank), ranks.broadcast(f"of {ranks.rank}")

    assert on_ranks(2, body, tmp_path, before=before) == [(rank, 2, [0, 1], "of 0") for rank in range(2)]


@pytest.mark.parametrize("value", [None, [1, [2]], [], {"a": (1, 2)}, "text"])
def test_objects_are_gathered_and_broadcast_as_they_are(tmp_path, value):
    def body(ranks):
        return ranks.all_gather(value), ranks.broadcast(value if ranks.is_main else "another")

    assert on_ranks(2, body, tmp_path) == [([value, value], value)] * 2


def test_a_group_is_left_once_and_a_second_time_changes_nothing(tmp_path):
    def body(ranks):
        import torch

        from finetune_trainer.distributed import destroy_process_group

        ranks.broadcast(None)
        destroy_process_group()
        destroy_process_group()
        return torch.distributed.is_initialized()

    assert on_ranks(2, body, tmp_path) == [False, False]
