"""A Ray cluster of two nodes on this machine, a CPU each."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}
TESTS = Path(__file__).resolve().parents[1]


@contextmanager
def two_nodes(monkeypatch):
    """The cluster; its attribute ``second`` is the node that can go. Nobody is connected to it yet."""
    import ray
    from ray.cluster_utils import Cluster

    # Its workers find what the tests find: they start with the variables of their node.
    paths = [str(TESTS.parent), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # or they wait for whatever else is at work on this machine
    nodes = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        nodes.second = nodes.add_node(**NODE)
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()
