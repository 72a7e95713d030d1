"""One thread: the forked trainers share what this process has loaded. The processes of several GPUs are new ones."""

import os
import sys

from signals import signals_stay  # noqa: F401 - a fixture for every test here

os.environ.update(
    OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"
)
os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
