"""Vertex AI's services, one request at a time.

The clients are Google's generated ones over REST: that goes through proxies, takes REQUESTS_CA_BUNDLE, and its errors
carry Retry-After, which gRPC's do not. Their own retries are off, since ours look before they ask for the same again.
"""

from __future__ import annotations

import warnings
from typing import Any

import google.auth
from google.auth.exceptions import GoogleAuthError
from google.cloud.aiplatform_v1.services.metadata_service import MetadataServiceClient
from google.cloud.aiplatform_v1.services.pipeline_service import PipelineServiceClient
from google.cloud.aiplatform_v1.types import PipelineJob

from components.shared.errors import PlatformRefusedError
from components.shared.events.google_errors import ODD_FILE, reason_of
from components.shared.events.redaction import redact
from pipelines.submit.patience import Patience
from pipelines.submit.vertex.api_errors import FAILURES, LOG_IN, AlreadyExists, Answers, Expected, NotFound
from pipelines.submit.vertex.request import Project


class Service:
    """One project's and location's services.

    Attributes:
        answers: What their errors mean.
        credentials: Who we are.

    Raises:
        PlatformRefusedError: There are no credentials.
    """

    def __init__(self, project: Project, endpoint: str) -> None:
        self._project = project
        self._endpoint = endpoint
        # Kept as long as this is, for whoever follows a run: their connections, and what google-auth asks in the
        # background for each new one.
        self._clients: dict[type[Any], Any] = {}
        self._heard = False
        self.answers = Answers(endpoint, project.project, project.location)
        try:
            with warnings.catch_warnings():
                # Of a person's credentials without a project for quotas; where that matters, the answer says so.
                warnings.simplefilter("ignore")
                scopes = PipelineServiceClient.get_transport_class("rest").AUTH_SCOPES
                self.credentials: Any = google.auth.default(scopes=scopes)[0]
        except GoogleAuthError as error:
            raise self.answers.meaning(error) from error
        except ODD_FILE as error:
            raise PlatformRefusedError(f"no Google credentials: {redact(reason_of(error))}; {LOG_IN}") from error

    def create(self, job: PipelineJob, job_id: str, patience: Patience) -> PipelineJob:
        """Make a job, in one attempt.

        Raises:
            AlreadyExists: One of that id is there.
            Later: Not now; or it was made, and that was not heard.
            PlatformRefusedError: It will not be.
        """
        made: PipelineJob = self._ask(
            PipelineServiceClient,
            "create_pipeline_job",
            patience,
            # Nothing found is the project, or the location.
            (AlreadyExists,),
            parent=self._project.parent,
            pipeline_job=job,
            pipeline_job_id=job_id,
        )
        return made

    def get(self, name: str, patience: Patience) -> PipelineJob:
        """A job, by the resource's whole name, in one attempt.

        Raises:
            NotFound: There is none.
            Later: Not now.
            PlatformRefusedError: We may not know.
        """
        found: PipelineJob = self._ask(PipelineServiceClient, "get_pipeline_job", patience, (NotFound,), name=name)
        return found

    def metadata(self, method: str, patience: Patience, *expected: type[Expected], **request: Any) -> Any:
        """One request of the service that keeps experiments, in one attempt.

        Args:
            method: The client's method.
            patience: What time there is.
            expected: What may be raised: that what is to be made is there, or that what is asked for is not.
            request: The method's arguments.

        Raises:
            Expected: As expected.
            Later: Not now.
            PlatformRefusedError: It will not be.
        """
        return self._ask(MetadataServiceClient, method, patience, expected, **request)

    def _ask(
        self, kind: type[Any], method: str, patience: Patience, expected: tuple[type[Expected], ...], **request: Any
    ) -> Any:
        try:
            if kind not in self._clients:
                options = {"api_endpoint": self._endpoint}
                self._clients[kind] = kind(credentials=self.credentials, transport="rest", client_options=options)
            ask = getattr(self._clients[kind], method)
            answer = ask(**request, retry=None, timeout=patience.request_s())
        except FAILURES as error:
            raise self.answers.meaning(error, *expected, heard=self._heard) from error
        # The client takes any JSON for a message, with nothing in it.
        if getattr(answer, "name", None) == "":
            raise self.answers.stranger("its answer is not the API's")
        self._heard = True
        return answer
