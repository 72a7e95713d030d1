"""A script that asks accelerate for no device and counts the processes that it trains with."""

import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

if __name__ == "__main__":
    accelerator = Accelerator()
    together = int(accelerator.reduce(torch.ones(1)).item())
    print(f"{together} processes, this one is {accelerator.process_index}", flush=True)
    if together != int(sys.argv[1]):
        sys.exit(f"{together} processes in place of {sys.argv[1]}")
    if accelerator.is_main_process:
        Path(os.environ["FINETUNE_OUTPUT_DIR"], sys.argv[2]).mkdir(parents=True)
    accelerator.end_training()
