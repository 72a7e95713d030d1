"""The command line: `finetune`."""
