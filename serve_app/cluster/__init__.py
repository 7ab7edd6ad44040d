"""Kubernetes: what is asked of a cluster, put there, watched, taken back, and what it costs.

kube ──▶ needs ──▶ preflight      may it be put here? each "no" with its remedy
     ──▶ diff ──▶ rollout         what changes; apply, and wait until every road answers
     ──▶ trouble                  the event or log line that matters
     ──▶ revisions                what was put here before, to go back to
     ──▶ status, prices           replicas, queues, GPUs, dollars
"""
