"""PreflightConfig: what is checked on a CPU before a run asks for GPUs.

A file format like RunConfig: versioned, frozen by a golden file in the tests. The result is a RunReport as well.
"""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api import API_VERSION
from finetune_api.base import ApiModel, ShortText
from finetune_api.run import Path, RunConfig
from finetune_api.status import LARGEST_COUNT

Capability = Annotated[int, Field(ge=1, le=99)]
Bytes = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]


class PreflightConfig(ApiModel):
    """Configuration of one preflight."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["PreflightConfig"]
    """Distinguishes this file from a RunConfig."""
    run: RunConfig
    """The run to check, as its first attempt reads it."""
    output_mounted: bool = True
    """Whether the output claim is mounted. Without it nothing is written, and tokens and downloads are not kept for the run."""
    output_size: Bytes | None = None
    """Size of an output claim that is not mounted, in bytes."""
    gpu_memory: Bytes | None = None
    """Memory of each GPU, in bytes; where GPUs differ, of the largest. Default: unknown."""
    least_gpu_memory: Bytes | None = None
    """Memory of the smallest GPU, where they differ."""
    gpu_capability: Capability | None = None
    """Major number of the GPUs' CUDA compute capability; where GPUs differ, of the newest. Default: unknown."""
    least_gpu_capability: Capability | None = None
    """That of the oldest GPU, where they differ."""
    gpu_nodes: Annotated[int, Field(ge=1, le=LARGEST_COUNT)] | None = None
    """Number of nodes whose labels show the memory. Absent if the administrator sets it."""
    gpu_product: ShortText | None = None
    """Product of the GPUs by these labels, if all are alike."""
    work_dir: Path = "/tmp/finetune-preflight"  # noqa: S108 - an emptyDir of the pod's own
    """Folder for what is not kept. Removed at the end."""
    termination_log: Path | None = None
    """File to write the RunReport to. Not needed on a laptop."""
