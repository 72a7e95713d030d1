"""FineTuneJobs of one namespace on a real API server, as dicts. A refusal is an ApiException."""

import copy
import json
from dataclasses import dataclass
from typing import Any

import pytest
from kubernetes.client import ApiClient, CustomObjectsApi
from kubernetes.client.exceptions import ApiException

from finetune_api import GROUP, PLURAL, VERSION

Json = dict[str, Any]

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Jobs:
    """What a test does with FineTuneJobs."""

    client: ApiClient
    namespace: str

    @property
    def _api(self) -> CustomObjectsApi:
        return CustomObjectsApi(self.client)

    @property
    def _where(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL

    def create(self, job: Json, **options: Any) -> Json:
        """POST; unknown fields are refused unless `field_validation` says otherwise."""
        options = {"field_validation": "Strict"} | options
        return self._api.create_namespaced_custom_object(*self._where, job, **options)

    def try_out(self, job: Json) -> Json:
        """POST without keeping the job: all checks and all defaults."""
        return self.create(job, dry_run="All")

    def create_with_warnings(self, job: Json) -> tuple[Json, str]:
        """POST by a client that does not ask for strictness: the job, and the server's warnings."""
        body, _, headers = self._api.create_namespaced_custom_object_with_http_info(
            *self._where, job, field_validation="Warn"
        )
        return body, headers.get("Warning", "")

    def get(self, name: str) -> Json:
        return self._api.get_namespaced_custom_object(*self._where, name)

    def replace_spec(self, stored: Json, spec: Json, **options: Any) -> Json:
        """PUT the stored job with another spec."""
        changed = copy.deepcopy(stored) | {"spec": spec}
        return self._api.replace_namespaced_custom_object(
            *self._where, stored["metadata"]["name"], changed, **options
        )

    def patch(self, name: str, patch: Json, **options: Any) -> Json:
        """Merge patch."""
        return self._api.patch_namespaced_custom_object(
            *self._where, name, patch, _content_type=MERGE, **options
        )

    def patch_status(self, name: str, status: Json) -> Json:
        """Merge patch of the status subresource, as the operator writes it."""
        return self._api.patch_namespaced_custom_object_status(
            *self._where, name, {"status": status}, _content_type=MERGE, field_validation="Strict"
        )

    def apply(self, job: Json, manager: str) -> Json:
        """Server-side apply."""
        return self._api.patch_namespaced_custom_object(
            *self._where, job["metadata"]["name"], job, _content_type=APPLY, field_manager=manager
        )

    def apply_status(self, job: Json, manager: str) -> Json:
        """Server-side apply of the status subresource."""
        return self._api.patch_namespaced_custom_object_status(
            *self._where, job["metadata"]["name"], job, _content_type=APPLY, field_manager=manager
        )


def message_of(error: ApiException) -> str:
    """What the server says."""
    return str(json.loads(error.body)["message"])


def refusal_of(jobs: Jobs, job: Json) -> str:
    """The message with which the server refuses a new job."""
    with pytest.raises(ApiException) as caught:
        jobs.try_out(job)
    assert caught.value.status in (400, 422)
    return message_of(caught.value)


def refusal_of_update(jobs: Jobs, stored: Json, spec: Json) -> str:
    """The message with which the server refuses another spec for a stored job."""
    with pytest.raises(ApiException) as caught:
        jobs.replace_spec(stored, spec, dry_run="All")
    assert caught.value.status == 422
    return message_of(caught.value)
