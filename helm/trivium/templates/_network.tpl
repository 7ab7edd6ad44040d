{{/* Who may reach Ray's pods, and whom they may reach. */}}

{{- define "trivium.ports" -}}
ports:
  {{- range . }}
  - { port: {{ int . }}, protocol: TCP }
  {{- end }}
{{- end }}

{{- define "trivium.namespace" -}}
- namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: {{ . | quote }} } }
{{- end }}

{{/* The proxy of the Gateway that KubeRay makes, in this namespace. */}}
{{- define "trivium.gatewayPods" -}}
- podSelector: { matchLabels: { gateway.networking.k8s.io/gateway-name: {{ include "trivium.fullname" . }}-gateway } }
{{- end }}

{{- define "trivium.ingressRules" -}}
# Ray's pods among themselves: GCS, object store, gRPC between replicas on ports of their choice.
- from:
    - podSelector:
        {{- include "trivium.rayPods" . | nindent 8 }}
- from:
    {{- toYaml .Values.networkPolicy.from | nindent 4 }}
    - podSelector:
        matchLabels:
          {{- include "trivium.selector" (dict "root" . "component" "client") | nindent 10 }}
  {{- include "trivium.ports" (list 8000) | nindent 2 }}
{{- if eq .Values.upgrade.strategy "NewClusterWithIncrementalUpgrade" }}
- from:
    {{- include "trivium.gatewayPods" . | nindent 4 }}
  {{- include "trivium.ports" (list 8000) | nindent 2 }}
{{- end }}
# The operator asks Serve how it is and submits jobs.
- from:
    {{- include "trivium.namespace" .Values.networkPolicy.operatorNamespace | nindent 4 }}
  {{- include "trivium.ports" (list 8000 8265) | nindent 2 }}
{{- if .Values.monitoring.podMonitor.enabled }}
- from:
    {{- include "trivium.namespace" .Values.networkPolicy.monitoringNamespace | nindent 4 }}
  {{- include "trivium.ports" (list 8080 44217 44227) | nindent 2 }}
{{- end }}
{{- end }}

{{/* What clients and Ray's pods alike may reach: DNS, each other, and what is public. */}}
{{- define "trivium.egressRules" -}}
- ports:
    - { port: 53, protocol: UDP }
    - { port: 53, protocol: TCP }
- to:
    - podSelector:
        matchLabels:
          {{- include "trivium.selector" (dict "root" .) | nindent 10 }}
{{- if eq .Values.upgrade.strategy "NewClusterWithIncrementalUpgrade" }}
- to:
    {{- include "trivium.gatewayPods" . | nindent 4 }}
{{- end }}
{{- with .Values.networkPolicy.internetExcept }}
- to:
    - ipBlock: { cidr: 0.0.0.0/0, except: {{ toJson . }} }
  {{- include "trivium.ports" (list 443) | nindent 2 }}
{{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Milvus, PostgreSQL, Redis, traces and the dashboard's Prometheus: their ports, wherever they are. */}}
{{- define "trivium.dependencies" -}}
{{- $ports := list }}
{{- range list
  (list .Values.milvus.uri (hasPrefix "https" .Values.milvus.uri | ternary "443" "80"))
  (list (splitList "@" .Values.ledger.database | last) "5432")
  (list .Values.faultTolerance.redisAddress "6379")
  (list .Values.tracing.endpoint "4318")
  (list .Values.monitoring.prometheusHost "80")
  (list .Values.monitoring.grafanaHost "80") }}
  {{- if first . }}
    {{- $ports = append $ports (include "trivium.port" (dict "address" (first .) "default" (last .))) }}
  {{- end }}
{{- end }}
{{- with $ports | uniq }}
- {{ include "trivium.ports" . | nindent 2 | trim }}
{{- end }}
{{- end }}
