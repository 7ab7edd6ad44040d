"""`make cluster`: Trivium on a real Kubernetes of this machine, from nothing to passed tests.

The cluster is the one that `CLUSTER` names, a folder with a `cluster` script (see docs/install.md).
No registry is reached and no builder runs: images are packed from folders.
"""
