"""The functional core: what a job becomes, and what to do next about it. Shared by operator, CLI and SDK; pure."""
