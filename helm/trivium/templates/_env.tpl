{{/*
Environment of Trivium's containers. Ray's variables are those of `trivium up`: they are what makes it fast.
Here HAProxy, which Ray Serve starts on every node, takes the place of Serve's own proxy. On one machine it
does not: it opens its statistics to the network, which here the policies close. Whenever replicas come or go another
HAProxy takes over; the one before it has as long as a request may take to end its streams.
*/}}

{{- define "trivium.env" -}}
{{- $env := dict
  "HOME" "/tmp"
  "HF_HOME" (printf "%s/hub" (include "trivium.stateDir" .))
  "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL" "http/protobuf"
  "RAY_USAGE_STATS_ENABLED" "0"
  "RAY_SERVE_LOG_ENCODING" "JSON"
  "RAY_SERVE_ENABLE_HA_PROXY" "1"
  "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S" (include "trivium.patience" . | trim)
  "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH" "serve_app.gateway.request_ids.for_proxy"
  "RAY_SERVE_USE_GRPC_BY_DEFAULT" "1"
  "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD" "0"
  "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP" "0"
  "RAY_worker_niceness" "0"
  "RAYLLM_ENABLE_WORKER_PROCESS_SETUP_HOOK" "0"
  "TOKENIZERS_PARALLELISM" "false" }}
{{- $env = merge $env (include "trivium.outsideEnv" . | fromYaml) }}
{{- range $name, $value := mergeOverwrite $env (default dict .Values.ray.env) }}
- name: {{ $name | quote }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* Proxies and certificates. In capitals alone: Python's clients read these, gRPC, which Ray speaks between its pods, does not. */}}
{{- define "trivium.outsideEnv" -}}
{{- with .Values.caBundle }}
{{- if .configMap }}
{{- range list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "AWS_CA_BUNDLE" "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" }}
{{ . }}: /etc/trivium-ca/ca-certificates.crt
{{- end }}
{{- end }}
{{- end }}
{{- $proxy := .Values.proxy }}
{{- $secret := pick .Values.secrets.env "HTTP_PROXY" "HTTPS_PROXY" }}
{{- if or $proxy.http $proxy.https $secret }}
{{- $name := include "trivium.fullname" . }}
{{- $near := list "localhost" "127.0.0.1" ".svc" ".cluster.local" "$(KUBERNETES_SERVICE_HOST)" "169.254.0.0/16"
  (include "trivium.service" . | fromYaml).name (printf "%s-milvus" $name) (printf "%s-collector" $name) }}
{{- range include "trivium.addresses" . | fromJsonArray }}{{ $near = append $near (include "trivium.host" (first .)) }}{{ end }}
{{- $near = concat $near .Values.networkPolicy.internetExcept $proxy.noProxy | uniq }}
{{- range $kind := list "http" "https" }}
  {{- $variable := printf "%s_PROXY" (upper $kind) }}
  {{- with hasKey $secret $variable | ternary "" (index $proxy $kind) }}
{{ $variable }}: {{ . | quote }}
  {{- end }}
{{- end }}
NO_PROXY: {{ join "," $near | quote }}
{{- end }}
{{- end }}

{{/* Takes (dict "root" "optional"): whether the container starts without the Secret too. */}}
{{- define "trivium.secretEnv" -}}
{{- $secret := .root.Values.secrets.existingSecret }}
{{- range $name, $key := .root.Values.secrets.env }}
- name: {{ $name | quote }}
  valueFrom: { secretKeyRef: { name: {{ $secret | quote }}, key: {{ $key | quote }}{{ if $.optional }}, optional: true{{ end }} } }
{{- end }}
{{- end }}

{{- define "trivium.dashboardEnv" -}}
{{- range $name, $value := dict
  "RAY_PROMETHEUS_HOST" .Values.monitoring.prometheusHost
  "RAY_GRAFANA_HOST" .Values.monitoring.grafanaHost
  "RAY_GRAFANA_IFRAME_HOST" .Values.monitoring.grafanaIframeHost
  "RAY_GRAFANA_SERVE_DASHBOARD_UID" (ternary "trivium-serving" "" (ne .Values.monitoring.grafanaHost "")) }}
{{- if $value }}
- name: {{ $name | quote }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}
