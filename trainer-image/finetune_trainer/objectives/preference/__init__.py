"""Preference tuning: losses over log-probabilities of whole answers, and how they are measured."""

from finetune_trainer.objectives.preference.objective import Preference

__all__ = ["Preference"]
