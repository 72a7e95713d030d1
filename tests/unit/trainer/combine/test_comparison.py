"""Which is better, and what is said of it."""

from types import SimpleNamespace

import pytest

from finetune_api.combine import CombineRule, Publish
from finetune_api.status import Published
from finetune_trainer.combine.comparison import Decisive, compare, missing, sentence
from finetune_trainer.errors import DivergedError

ACCURACY, LOSS = Decisive("eval", "accuracy"), Decisive("eval", "loss")


def compared(values, combined, decisive=ACCURACY, publish=Publish.IF_BETTER, used=None, interval=None):
    config = SimpleNamespace(combine=CombineRule.GREEDY_SOUP, publish=publish)
    return compare(config, decisive, values, combined, used or len(values), interval)


@pytest.mark.parametrize(
    ("values", "combined", "decisive", "published"),
    [
        ([0.7, 0.8], 0.81, ACCURACY, Published.COMBINATION),
        ([0.7, 0.8], 0.8, ACCURACY, Published.BEST_MEMBER),
        ([0.7, 0.8], 0.75, ACCURACY, Published.BEST_MEMBER),
        ([0.7, 0.8], None, ACCURACY, Published.BEST_MEMBER),
        ([None, 0.8], 0.81, ACCURACY, Published.COMBINATION),
        ([None, None], 0.5, ACCURACY, Published.COMBINATION),
        ([0.7, 0.8], 0.69, LOSS, Published.COMBINATION),
        ([0.7, 0.8], 0.7, LOSS, Published.BEST_MEMBER),
        ([0.7, 0.8], 0.75, LOSS, Published.BEST_MEMBER),
    ],
)
def test_equal_is_not_better_and_what_is_not_finite_never_is(values, combined, decisive, published):
    assert compared(values, combined, decisive).published is published


def test_always_publishes_what_is_worse_but_nothing_that_is_not_finite():
    assert compared([0.8], 0.5, publish=Publish.ALWAYS).published is Published.COMBINATION
    for values, publish in (([0.8], Publish.ALWAYS), ([None], Publish.IF_BETTER)):
        with pytest.raises(DivergedError, match="eval_accuracy is not a finite number"):
            compared(values, None, publish=publish)


def test_the_gain_is_positive_when_better():
    found = compared([0.4, 0.5, None], 0.35, LOSS)
    assert (found.best_member, found.mean_member, found.gain, found.members) == (0.4, 0.45, 0.05, 3)
    assert compared([0.8, 0.9], 0.85).gain == -0.05


def test_the_sentence_has_the_figures_and_says_what_may_be_chance():
    found = compared([0.833, 0.845], 0.857, interval=[0.001, 0.023])
    assert sentence(found) == (
        "GreedySoup of 2 members: eval_accuracy 0.8570, best member 0.8450, mean member 0.8390; gain over the best"
        " member 0.0120 (95 % interval 0.0010 to 0.0230)"
    )
    wide = sentence(compared([0.8, 0.7], 0.81, interval=[-0.01, 0.02]))
    assert wide.endswith("(95 % interval -0.0100 to 0.0200); the gain may be chance")
    assert sentence(compared([0.8, 0.7], 0.79, interval=[-0.02, 0.01])).endswith(
        "the difference may be chance"
    )
    assert sentence(compared([None, 0.7], None)).startswith(
        "GreedySoup of 2 members: eval_accuracy not finite"
    )
    assert "GreedySoup of 1 of 3 members" in sentence(compared([0.5, 0.6, 0.4], 0.6, used=1))


def test_members_that_failed_are_named():
    config = SimpleNamespace(missing=["job-m2", "job-m4"], members=[1, 2, 3])
    assert missing(config) == "2 of 5 members failed and are not part of it: job-m2, job-m4"
    config = SimpleNamespace(missing=["job-m2"], members=[1, 2])
    assert missing(config) == "1 of 3 members failed and is not part of it: job-m2"
    many = SimpleNamespace(missing=[f"m{n}" for n in range(7)], members=[1, 2])
    assert missing(many).endswith("m0, m1, m2, m3, m4 and 2 more")
    assert missing(SimpleNamespace(missing=[], members=[1, 2])) == ""


def test_members_are_ordered_best_first_without_those_that_are_not_finite():
    assert ACCURACY.best([0.5, None, 0.9, 0.5]) == [2, 0, 3]
    assert LOSS.best([0.5, None, 0.9, 0.5]) == [0, 3, 2]
