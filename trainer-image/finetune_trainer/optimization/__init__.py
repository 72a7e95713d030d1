"""What a step does to weights and learning rate: optimizer, schedules, clipping, early stopping."""
