"""What `serve deploy` and KubeRay make of a configuration file's `args`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("ray.serve", reason="serving needs Ray: pip install squeezebert-fast[ray]")

from pydantic import ValidationError
from ray._common.utils import import_attr
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as called_as_serve_does

from squeezebert_fast.errors import InputError
from squeezebert_fast.serving.application import build


def test_args_are_the_commands_options() -> None:
    deployment = called_as_serve_does(build, {"model": "a/model", "replicas": 3, "threads": 2})
    bound = deployment._bound_deployment
    model, options, _ = bound.init_args
    assert model == "a/model"
    assert (options.replicas, options.threads, options.max_batch) == (3, 2, 64)
    assert bound.num_replicas == 3
    assert bound.ray_actor_options["num_cpus"] == 2


@pytest.mark.parametrize(
    "args", [{}, {"model": 5}, {"model": "m", "replica": 2}, {"model": "m", "replicas": "two"}]
)
def test_args_that_mean_nothing_are_refused(args: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        called_as_serve_does(build, args)


def test_args_out_of_range_are_refused_as_the_commands_options_are() -> None:
    with pytest.raises((InputError, ValidationError), match="--replicas is 0, expected 1 or more"):
        called_as_serve_does(build, {"model": "m", "replicas": 0})


def test_the_example_for_kuberay_holds_what_serve_takes() -> None:
    path = Path(__file__).parents[2] / "examples" / "kuberay" / "rayservice.yaml"
    service = yaml.safe_load(path.read_text(encoding="utf-8"))
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    assert import_attr(application["import_path"]) is build
    options = called_as_serve_does(build, application["args"])._bound_deployment.init_args[1]
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    cpus = [
        group["replicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        for group in groups
    ]
    assert options.replicas * options.threads <= sum(cpus)
