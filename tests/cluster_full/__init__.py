"""Trivium on a real Kubernetes, as `make cluster` starts it. `make test` leaves these out.

They run inside the cluster's network, with its KUBECONFIG and the images of `tools.cluster`.
"""
