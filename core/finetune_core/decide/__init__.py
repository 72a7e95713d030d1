"""Pure: from a job, what was observed of its children and the time, to the next action and the status."""
