"""The verifier on a cluster: a Ray Serve application with replicas that come and go.

    serve deploy deploy/serve.yaml

A session's calls go to one replica, by Ray's consistent-hash router over `x-session-id`. When
replicas come or go, some sessions meet a replica that does not know them: it answers 409 and the
device sends its text again, as after any restart. Nothing is shared between replicas.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from ...common.errors import ConfigError, EngineError
from ...common.keys import Keys, server_keys
from ...models.resolve import find_model
from ..app import App
from ..options import VerifierOptions
from ..service import load_service

_ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"


class ClusterOptions(BaseModel):
    """Options of the application: `args` in a Serve config file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verifier: VerifierOptions = VerifierOptions()
    replicas: int = Field(1, ge=1, description="at least so many")
    most_replicas: int = Field(1, ge=1, description="at most so many")
    target_calls: float = Field(
        16.0, gt=0.0, description="calls under way in a replica, above which another one starts"
    )
    cpus: float = Field(1.0, ge=0.0, description="of a replica")
    gpus: float = Field(0.0, ge=0.0, description="of a replica")
    drain_seconds: float = Field(30.0, ge=0.0, description="for running calls when one must go")


class Replica:
    """One verifier with a model of its own.

    Args:
        options: the verifier's.
        environment: of the process, for the key.

    Raises:
        ConfigError: there is no key: the proxy of a cluster is reached by others.
        ModelError: the model is refused.
    """

    def __init__(
        self, options: VerifierOptions, environment: Mapping[str, str] | None = None
    ) -> None:
        environment = os.environ if environment is None else environment
        keys = Keys(server_keys(environment, "UHLM_API_KEY", options.key_file))
        if not keys:
            raise ConfigError(
                "a cluster's verifier wants a key: set UHLM_API_KEY in the replicas' environment, "
                "or key_file in verifier"
            )
        self._service = load_service(find_model(options.model), options, keys)
        self._service.verifier.driver.start()

    def __serve_build_asgi_app__(self) -> Any:
        """The routes of any verifier."""
        routes = App(self._service)

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await _live(receive, send)
            else:
                await routes(scope, receive, send)

        return answer

    def check_health(self) -> None:
        """Ray replaces a replica for which this raises: the model's thread must still answer."""
        answered = threading.Event()
        self._service.verifier.scheduler.forget(("", ""), answered.set)
        if not answered.wait(timeout=20):
            raise EngineError("the model's thread has not answered for 20 s")

    def __del__(self) -> None:
        if service := self.__dict__.get("_service"):
            service.ready = False
            service.verifier.driver.close()


async def _live(receive: Any, send: Any) -> None:
    """Ray speaks ASGI's lifespan protocol; there is nothing to start or stop in it."""
    while (message := await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": message["type"] + ".complete"})


def app(args: ClusterOptions) -> serve.Application:
    """Build the application; Serve calls it with `args` of the config file.

    Raises:
        ConfigError: fewer replicas at most than at least.
    """
    if args.most_replicas < args.replicas:
        raise ConfigError(
            f"most_replicas ({args.most_replicas}) is less than replicas ({args.replicas})"
        )
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="verifier",
        autoscaling_config=AutoscalingConfig(
            min_replicas=args.replicas,
            max_replicas=args.most_replicas,
            target_ongoing_requests=args.target_calls,
        ),
        max_ongoing_requests=args.verifier.queue,
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": args.gpus},
        request_router_config=RequestRouterConfig(request_router_class=_ROUTER),
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=1,
        graceful_shutdown_timeout_s=args.drain_seconds,
    )
    return deployment.bind(args.verifier)
