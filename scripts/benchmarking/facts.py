"""What is told of JAX and its device beside every measurement."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import jax


def facts() -> dict[str, Any]:
    """The device, its platform, and versions of packages."""
    device = jax.devices()[0]
    versions = {package: version(package) for package in ("jax", "jaxlib", "flax")}
    return {"device": device.device_kind, "platform": device.platform, "versions": versions}


if __name__ == "__main__":
    print(json.dumps(facts()))
