"""One model out of several: checked, scored on the same rows, combined and published."""
