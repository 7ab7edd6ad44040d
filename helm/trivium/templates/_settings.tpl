{{/* Settings of Trivium: `settings` of the values, and over it what the chart knows better. */}}

{{- define "trivium.stateDir" -}}/var/lib/trivium{{- end }}

{{- define "trivium.milvusUri" -}}
{{- if .Values.milvus.standalone.enabled -}}
http://{{ include "trivium.fullname" . }}-milvus:19530
{{- else -}}
{{ default (printf "%s/milvus.db" (include "trivium.stateDir" .)) .Values.milvus.uri }}
{{- end }}
{{- end }}

{{- define "trivium.tracesEndpoint" -}}
{{- if .Values.tracing.collector.enabled -}}
http://{{ include "trivium.fullname" . }}-collector:4318/v1/traces
{{- else -}}
{{ .Values.tracing.endpoint }}
{{- end }}
{{- end }}

{{/* What the chart sets itself. Relative paths would mean a different folder in each process. */}}
{{- define "trivium.derived" -}}
{{- $state := include "trivium.stateDir" . }}
state_dir: {{ $state }}
gateway: { scaling: {{ toJson .Values.scaling.gateway }} }
router:
  scaling: {{ toJson .Values.scaling.router }}
  {{- with .Values.policy }}
  policy: {{ toJson . }}
  {{- end }}
  {{- with .Values.outcomes }}
  outcomes: {{ toJson . }}
  {{- end }}
  {{- with .Values.heads }}
  {{- if .source }}
  heads: {{ .source | quote }}
  {{- with .sha256 }}
  heads_sha256: {{ . | quote }}
  {{- end }}
  {{- end }}
  {{- end }}
expert: { scaling: {{ toJson .Values.scaling.expert }}, lora: { cache: {{ $state }}/adapter-cache } }
retrieval:
  scaling: {{ toJson .Values.scaling.retrieval }}
  milvus_uri: {{ include "trivium.milvusUri" . | quote }}
  registry: {{ default (printf "%s/registry.db" $state) .Values.ledger.database | quote }}
frontier: { scaling: {{ toJson .Values.scaling.frontier }} }
ledger:
  database: {{ default (printf "%s/ledger.db" $state) .Values.ledger.database | quote }}
  prices: {{ .Values.prices | default "/opt/trivium/configs/prices.yaml" | toJson }}
  {{- if .Values.machinePrices.enabled }}
  machines: /etc/trivium-machines/machines.yaml
  {{- end }}
{{- with include "trivium.tracesEndpoint" . }}
telemetry: { otlp_traces_endpoint: {{ . | quote }} }
{{- end }}
{{- end }}

{{/* The whole tree, as `trivium --config` takes it. */}}
{{- define "trivium.settings" -}}
{{- $settings := deepCopy .Values.settings }}
{{- range $name, $value := dig "expert" "environment" dict $settings }}
  {{- if kindIs "invalid" $value }}{{ $_ := unset $settings.expert.environment $name }}{{ end }}
{{- end }}
{{- $adapters := dig "expert" "adapters" "adapters" $settings }}
{{- if not (or (contains "://" $adapters) (hasPrefix "/" $adapters)) }}
  {{- $adapters = printf "%s/%s" (include "trivium.stateDir" .) $adapters }}
{{- end }}
{{- $settings = mergeOverwrite $settings (include "trivium.derived" . | fromYaml) (dict "expert" (dict "adapters" $adapters)) }}
{{- toYaml $settings }}
{{- end }}
