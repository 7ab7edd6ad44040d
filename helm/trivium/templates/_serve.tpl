{{/*
serveConfigV2: what KubeRay hands to Serve's REST API, made of the settings as `serve_app/serve_config.py` does it: `args` are
what a running replica cannot change, and all else reaches it as it runs. tests/helm/test_serve.py compares the two.
*/}}

{{- define "trivium.serveConfig" -}}
{{- $all := include "trivium.settings" . | fromYaml }}
{{- $everywhere := pick $all "state_dir" "telemetry" }}
{{- $engine := omit $all.expert "scaling" "max_output_tokens" "training" "training_workers" }}
{{- $reserved := pick $all.expert.scaling "num_cpus" "num_gpus" }}
{{- $encoder := pick $all.router "examples" "intents" "max_tokens" "threads" "sketch_bytes" }}
{{- $store := pick $all.retrieval "milvus_uri" "milvus_ca" "registry" "vector_index" "tenancy" "embedding_model" "rerank_model" }}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
  # Longer than load balancers keep idle connections (60 s): the side that closes must not be this one.
  keep_alive_timeout_s: 90
applications:
  - name: expert
    route_prefix: null
    import_path: serve_app.app:expert
    args:
      {{- merge (dict "expert" (set $engine "scaling" $reserved)) $everywhere | toYaml | nindent 6 }}
    deployments:
      - name: Expert
        {{- include "trivium.options" (list $all "expert") | trim | nindent 8 }}
  - name: trivium
    route_prefix: /
    import_path: serve_app.app:trivium
    args:
      {{- merge (dict "router" $encoder "retrieval" $store) $everywhere | toYaml | nindent 6 }}
    deployments:
      {{- include "trivium.deployments" $all | trim | nindent 6 }}
{{- end }}

{{/* The deployments of `trivium`, whose settings are live. Takes the settings. */}}
{{- define "trivium.deployments" -}}
{{- $router := merge (dict "examples" list "intents" dict) (omit .router "scaling" "examples" "intents") }}
{{- $retrieval := omit .retrieval "scaling" }}
{{- $frontier := omit .frontier "scaling" }}
{{- $prices := pick .ledger "prices" "machines" "baseline_model" }}
{{- /* A router is told of no provider, whose key is not everywhere. */}}
{{- if .frontier.provider }}{{ $_ := set $prices "baseline_model" .frontier.model }}{{ end }}
{{- $gateway := dict
  "gateway" (omit .gateway "scaling")
  "router" (merge (dict "scaling" (pick .router.scaling "max_replicas")) (pick .router "timeout_s" "max_batch_size"))
  "expert" (omit .expert "scaling" "environment")
  "retrieval" $retrieval
  "frontier" $frontier
  "orchestration" (default dict .orchestration)
  "ledger" .ledger }}
{{- $configs := dict
  "gateway" (list "Gateway" $gateway)
  "router" (list "Router" (dict "router" $router "ledger" $prices "expert" (pick .expert "model")))
  "retrieval" (list "Retriever" (dict "retrieval" $retrieval))
  "frontier" (list "Frontier" (dict "frontier" $frontier "router" (pick .router "policy"))) }}
{{- range $section, $pair := $configs }}
- name: {{ first $pair }}
  {{- include "trivium.options" (list $ $section) | trim | nindent 2 }}
  ray_actor_options: {{ pick (get $ $section).scaling "num_cpus" "num_gpus" | toJson }}
  user_config:
    {{- last $pair | toYaml | nindent 4 }}
{{- end }}
{{- end }}

{{/* Serve's own options of a deployment. Takes the settings and the name of its section. */}}
{{- define "trivium.options" -}}
{{- $all := first . }}
{{- $scaling := (get $all (last .)).scaling }}
autoscaling_config: {{ pick $scaling "min_replicas" "max_replicas" "target_ongoing_requests" "upscale_delay_s" "downscale_delay_s" | toJson }}
max_ongoing_requests: {{ int $scaling.max_ongoing_requests }}
max_queued_requests: {{ int $scaling.max_queued_requests }}
{{- /* A file of Milvus Lite has one owner: the old one leaves first. */}}
{{- $alone := and (eq (last .) "retrieval") (not (contains "://" $all.retrieval.milvus_uri)) }}
max_surge_percent: {{ $alone | ternary 0 (int $scaling.max_surge_percent) }}
# A replica that is taken away finishes its streams first.
graceful_shutdown_timeout_s: {{ default 300 $all.gateway.request_timeout_s }}
{{- end }}
