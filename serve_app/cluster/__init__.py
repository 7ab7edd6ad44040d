"""Kubernetes: what is asked of a cluster before Helm installs, what runs there, what it costs.

kube ──▶ needs, declared, admission ──▶ preflight     may it be? each "no" with its remedy
     ──▶ helm ──▶ diff, rollout                       what changes; until every road answers
     ──▶ trouble                                      the event or log line that matters
     ──▶ serving, status, prices                      applications, queues, GPUs, dollars
"""
