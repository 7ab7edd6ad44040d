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
router: { scaling: {{ toJson .Values.scaling.router }} }
expert: { scaling: {{ toJson .Values.scaling.expert }}, lora: { cache: {{ $state }}/adapter-cache } }
retrieval: { scaling: {{ toJson .Values.scaling.retrieval }}, milvus_uri: {{ include "trivium.milvusUri" . | quote }} }
frontier: { scaling: {{ toJson .Values.scaling.frontier }} }
ledger:
  database: {{ default (printf "%s/ledger.db" $state) .Values.ledger.database | quote }}
  prices: {{ empty .Values.prices | ternary "/opt/trivium/configs/prices.yaml" "/etc/trivium/prices.yaml" }}
  {{- if .Values.machinePrices.enabled }}
  machines: /etc/trivium-machines/machines.yaml
  {{- end }}
{{- with include "trivium.tracesEndpoint" . }}
telemetry: { otlp_traces_endpoint: {{ . | quote }} }
{{- end }}
{{- end }}

{{/* The whole tree, as `serve_app.app:build` takes it. */}}
{{- define "trivium.args" -}}
{{- $args := deepCopy .Values.settings }}
{{- range $name, $value := dig "expert" "environment" dict $args }}
  {{- if kindIs "invalid" $value }}{{ $_ := unset $args.expert.environment $name }}{{ end }}
{{- end }}
{{- $adapters := dig "expert" "adapters" "adapters" $args }}
{{- if not (or (contains "://" $adapters) (hasPrefix "/" $adapters)) }}
  {{- $adapters = printf "%s/%s" (include "trivium.stateDir" .) $adapters }}
{{- end }}
{{- $args = mergeOverwrite $args (include "trivium.derived" . | fromYaml) (dict "expert" (dict "adapters" $adapters)) }}
{{- toYaml $args }}
{{- end }}

{{/* What `trivium prepare` makes depends on this much of them: pods that have something else are replaced. */}}
{{- define "trivium.prepared" -}}
{{- $router := default dict .Values.settings.router }}
{{- $expert := default dict .Values.settings.expert }}
{{- list $expert.model $expert.model_source $router.examples $router.intents | toJson | sha256sum | trunc 16 }}
{{- end }}

{{/* serveConfigV2: what KubeRay hands to Serve's REST API. */}}
{{- define "trivium.serveConfig" -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
  # Longer than load balancers keep idle connections (60 s): the side that closes must not be this one.
  keep_alive_timeout_s: 90
applications:
  - name: trivium
    route_prefix: /
    import_path: serve_app.app:build
    args:
      {{- include "trivium.args" . | nindent 6 }}
{{- end }}
