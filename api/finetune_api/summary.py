"""SummaryConfig: what a search leaves behind. Its winner is copied to the output folder, with a report and plots beside it.

A file format like RunConfig: all paths explicit, versioned, frozen by a golden file in the tests. The result is a
RunReport as well.
"""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api import API_VERSION
from finetune_api.base import ApiModel, Rule
from finetune_api.combine import CombinePaths, MemberInput
from finetune_api.gate import GateSpec
from finetune_api.run import JobIdentity, Path, ProgressEndpoint
from finetune_api.search_history import SearchHistory


class SummaryConfig(ApiModel):
    """Configuration of the summary of one search."""

    rules = (
        Rule(
            "has(self.search.best)",
            "search.best is required: model is that of the best trial",
            lambda s: s.search.best is not None,
        ),
    )
    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["SummaryConfig"]
    """Distinguishes this file from a RunConfig."""
    job: JobIdentity
    search: SearchHistory
    model: MemberInput
    """Model of the best trial, which is copied to output.modelDir."""
    gate: Annotated[GateSpec | None, Field(exclude_if=lambda gate: gate is None)] = None
    """What the model must reach to be copied."""
    output: CombinePaths
    progress: ProgressEndpoint | None = None
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the /metrics endpoint. 0 disables it."""
    termination_log: Path | None = None
    """File to write the RunReport to. Not needed on a laptop."""
