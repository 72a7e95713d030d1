"""Where the model goes: put together in a staging folder, verified, and published by one rename."""
