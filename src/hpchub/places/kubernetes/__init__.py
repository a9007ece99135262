"""Places of the kind ``kubernetes``: a session is a pod in a namespace of a Kubernetes cluster."""

import os
from pathlib import Path

from hpchub.places.interface import Kind
from hpchub.places.kubernetes.pods import plan

# The client of Kubernetes reads the name of its configuration when it is imported; see no_cluster.yml.
os.environ.setdefault("KUBECONFIG", str(Path(__file__).with_name("no_cluster.yml")))

KIND = Kind(
    "hpchub.places.kubernetes.connection:KubernetesConnection",
    "hpchub.places.kubernetes.spawner:KubernetesSpawner",
    plan,
)
