"""The Ray Serve application, for the command and for configuration files (`serve deploy`, KubeRay's serveConfigV2).

applications:
  - name: embeddings
    import_path: squeezebert_fast.serving.application:build
    args: {model: sentence-transformers/all-MiniLM-L6-v2, replicas: 2, max_batch: 128}
"""

# Without `from __future__ import annotations`: Serve reads the builder's annotation, which must be a class.
import dataclasses
from typing import Any

import pydantic
from ray import serve

from squeezebert_fast.serving.deployment import Replica
from squeezebert_fast.serving.options import ServingOptions

DEPLOYMENT = "squeezebert-fast"
MANY = 1_000_000
"""Requests in a replica at once, as far as Serve is concerned: the replica itself counts what waits."""
DRAIN_SECONDS = 60


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid"))
class _Arguments(ServingOptions):
    model: str


class Arguments(pydantic.RootModel[_Arguments]):
    """The model's name and the options of a server, each checked."""


def application(model: str, options: ServingOptions, metrics_folder: str | None = None) -> serve.Application:
    """A model as an application, whose replicas each take as many of the cluster's CPUs as they have threads.

    metrics_folder: of a server that has its Ray to itself: where its replicas write their numbers.
    """
    threads = options.threads or 1  # what Ray would let it have
    replica = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=options.replicas,
        max_ongoing_requests=MANY,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=2,
        health_check_timeout_s=10,  # of which three in a row end a replica
        ray_actor_options={"num_cpus": threads},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )(serve.ingress()(Replica))
    return replica.bind(model, dataclasses.replace(options, threads=threads), metrics_folder)


def build(arguments: Arguments) -> serve.Application:
    """The application of a configuration file. Raises pydantic.ValidationError for arguments of other types."""
    fields: dict[str, Any] = dataclasses.asdict(arguments.root)
    model = fields.pop("model")
    return application(model, ServingOptions(**fields))
