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
{{- $proxies := list }}
{{- range list .Values.proxy.http .Values.proxy.https }}
  {{- if . }}{{ $proxies = append $proxies (include "trivium.port" (dict "address" . "default" "80")) }}{{ end }}
{{- end }}
{{- with $proxies | uniq }}
- {{ include "trivium.ports" . | nindent 2 | trim }}
{{- end }}
{{- include "trivium.identityRules" . }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Where a pod gets credentials of its account's cloud role: an address of its node. GKE's depends on its data plane. */}}
{{- define "trivium.identityRules" -}}
{{- $cloud := .Values.networkPolicy.workloadIdentity }}
{{- if hasKey .Values.serviceAccount.annotations "iam.gke.io/gcp-service-account" }}{{ $cloud = "gke" }}{{ end }}
{{- $places := dict
  "gke" (dict "169.254.169.252/32" (list 987 988) "169.254.169.254/32" (list 80 8080))
  "eks" (dict "169.254.170.23/32" (list 80)) }}
{{- range $cidr, $ports := index $places $cloud }}
- to:
    - ipBlock: { cidr: {{ $cidr }} }
  {{- include "trivium.ports" $ports | nindent 2 }}
{{- end }}
{{- end }}

{{/* Milvus, PostgreSQL, Redis, traces and the dashboard's Prometheus: their ports, wherever they are. */}}
{{- define "trivium.dependencies" -}}
{{- $ports := list }}
{{- range include "trivium.addresses" . | fromJsonArray }}
  {{- $ports = append $ports (include "trivium.port" (dict "address" (first .) "default" (last .))) }}
{{- end }}
{{- with $ports | uniq }}
- {{ include "trivium.ports" . | nindent 2 | trim }}
{{- end }}
{{- end }}
