{{/* Values that contradict each other or that the API server refuses: all of them are named, each with its key and its remedy. */}}

{{- define "trivium.checks" -}}
{{- $found := list }}
{{- range list "names" "scaling" "places" "gpus" "oneOwner" "addresses" "secrets" "routes" "upgrade" "budgets" }}
  {{- $found = concat $found (include (printf "trivium.check.%s" .) $ | splitList "\n") }}
{{- end }}
{{- with $found | compact | uniq }}
  {{- fail (printf "\n\nThese values contradict each other, or what the API server takes:\n- %s\n" (join "\n- " .)) }}
{{- end }}
{{- end }}

{{/* What the API server would refuse at the end of an installation. */}}
{{- define "trivium.check.names" -}}
{{- with .Values.fullnameOverride }}
  {{- if not (regexMatch "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$" .) }}
fullnameOverride ({{ . }}) is no name: at most 40 lower-case letters, digits and -, a letter first and no - at the end
  {{- end }}
{{- end }}
{{- range $path, $name := dict "secrets.existingSecret" .Values.secrets.existingSecret
  "secrets.externalSecret.store.name" .Values.secrets.externalSecret.store.name
  "faultTolerance.passwordSecret.name" .Values.faultTolerance.passwordSecret.name
  "client.apiKeySecret.name" .Values.client.apiKeySecret.name "ingress.tlsSecret" .Values.ingress.tlsSecret
  "ingress.className" .Values.ingress.className "caBundle.configMap" .Values.caBundle.configMap
  "ray.queueName" .Values.ray.queueName "pods.priorityClassName" .Values.pods.priorityClassName
  "pods.runtimeClassName" .Values.pods.runtimeClassName "state.claim.existingClaim" .Values.state.claim.existingClaim
  "state.claim.storageClass" .Values.state.claim.storageClass
  "milvus.standalone.storageClass" .Values.milvus.standalone.storageClass
  "upgrade.gatewayClassName" .Values.upgrade.gatewayClassName "upgrade.gatewayService" .Values.upgrade.gatewayService }}
  {{- if not (regexMatch "^$|^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$" $name) }}
{{ $path }} ({{ $name }}) is no name of a Kubernetes object: lower-case letters, digits, - and . only
  {{- end }}
{{- end }}
{{- range $path, $each := dict "workers" .Values.workers "jobs" .Values.jobs "schedules" .Values.schedules }}
  {{- range $name, $_ := $each }}
    {{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$" $name) }}
{{ $path }}.{{ $name }}: the name goes into those of pods: at most 40 lower-case letters, digits and - only
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "trivium.check.scaling" -}}
{{- range $name, $each := .Values.scaling }}
  {{- if gt (int $each.min_replicas) (int $each.max_replicas) }}
scaling.{{ $name }}.min_replicas ({{ $each.min_replicas }}) is above max_replicas ({{ $each.max_replicas }}): raise max_replicas or lower min_replicas
  {{- end }}
{{- end }}
{{- range $name, $each := include "trivium.workers" . | fromJson }}
  {{- if gt (int $each.minReplicas) (int $each.maxReplicas) }}
workers.{{ $name }}.minReplicas ({{ $each.minReplicas }}) is above maxReplicas ({{ $each.maxReplicas }}): raise maxReplicas or lower minReplicas
  {{- end }}
  {{- if has $name (list "head" "milvus" "collector" "client" "job" "prices") }}
workers.{{ $name }}: the name is taken, call the group otherwise
  {{- end }}
{{- end }}
{{- end }}

{{/* Ray CPUs of the replicas that must be there, against those of the pods that may be there. */}}
{{- define "trivium.check.places" -}}
{{- $needed := 0.0 }}{{ $there := float64 .Values.head.numCpus }}
{{- $expertCpus := 0.0 }}
{{- range $name, $each := .Values.scaling }}
  {{- if or (ne $name "expert") (eq (dig "expert" "accelerator" "cpu" $.Values.settings) "cpu") }}
    {{- $needed = addf $needed (mulf $each.min_replicas $each.num_cpus) }}
  {{- end }}
{{- end }}
{{- range $name, $each := include "trivium.workers" . | fromJson }}
  {{- if eq (int $each.gpu.count) 0 }}{{ $there = addf $there (mulf $each.maxReplicas $each.numCpus) }}{{ end }}
{{- end }}
{{- if gt $needed $there }}
scaling asks for {{ $needed }} Ray CPUs at least and head.numCpus with the CPU groups of workers gives {{ $there }} at most: raise workers.<group>.numCpus or maxReplicas, or lower scaling.<deployment>.min_replicas or num_cpus
{{- end }}
{{- end }}

{{- define "trivium.check.gpus" -}}
{{- $expert := default dict .Values.settings.expert }}
{{- $engine := default dict $expert.engine }}
{{- $each := mul (default 1 $engine.tensor_parallel_size) (default 1 $engine.pipeline_parallel_size) | int }}
{{- $most := 0 }}{{ $cpus := 0.0 }}
{{- range $name, $group := include "trivium.workers" . | fromJson }}
  {{- $count := int $group.gpu.count }}
  {{- $most = add $most (mul $count (int $group.maxReplicas)) | int }}
  {{- if gt $count 0 }}
    {{- $cpus = maxf $cpus $group.numCpus }}
    {{- if and (eq $expert.accelerator "gpu") (ne (mod $count $each) 0) }}
workers.{{ $name }} has pods of {{ $count }} GPUs and a replica of the expert takes {{ $each }} (settings.expert.engine.tensor_parallel_size × pipeline_parallel_size), which never span pods: set workers.{{ $name }}.gpu.count to {{ $each }}, or tensor_parallel_size to {{ $count }}
    {{- end }}
    {{- if ne $expert.accelerator "gpu" }}
workers.{{ $name }} has GPUs and settings.expert.accelerator is {{ default "cpu" $expert.accelerator }}: set it to gpu, or workers.{{ $name }}.enabled to false
    {{- end }}
  {{- end }}
{{- end }}
{{- if and .Values.machinePrices.enabled (ne $expert.accelerator "gpu") }}
machinePrices.enabled and settings.expert.accelerator is {{ default "cpu" $expert.accelerator }}: the price table says what a CPU costs, so set machinePrices.enabled to false
{{- end }}
{{- if eq (default "cpu" $expert.accelerator) "gpu" }}
  {{- if eq $most 0 }}
settings.expert.accelerator is gpu and no group of workers has a GPU: set workers.gpu.gpu.count and maxReplicas to 1 or more, or the accelerator to cpu
  {{- else if gt (int .Values.scaling.expert.max_replicas | mul $each | int) $most }}
scaling.expert.max_replicas ({{ .Values.scaling.expert.max_replicas }}) × {{ $each }} GPUs is more than the {{ $most }} that workers may have: raise workers.<group>.maxReplicas or gpu.count, or lower max_replicas or settings.expert.engine.tensor_parallel_size
  {{- end }}
  {{- if and (gt $most 0) (gt (float64 .Values.scaling.expert.num_cpus) $cpus) }}
scaling.expert.num_cpus ({{ .Values.scaling.expert.num_cpus }}) is more than workers.<group>.numCpus ({{ $cpus }}) of any group with GPUs: set it to 0, or numCpus to as much
  {{- end }}
{{- end }}
{{- end }}

{{/* Files that one process may open: everything has to be on the head pod then. */}}
{{- define "trivium.check.oneOwner" -}}
{{- $pods := keys (include "trivium.workers" . | fromJson) | len }}
{{- if and (hasPrefix "/" (include "trivium.milvusUri" .)) (or $pods (gt (int .Values.scaling.retrieval.max_replicas) 1)) }}
milvus.uri is empty, which is embedded Milvus, a file with one owner, beside workers or scaling.retrieval.max_replicas above 1: set milvus.uri to a server or milvus.standalone.enabled to true
{{- end }}
{{- if and (empty .Values.ledger.database) (or $pods (gt (int .Values.scaling.gateway.max_replicas) 1)) }}
ledger.database is empty, which is SQLite, a file of one pod, beside workers or scaling.gateway.max_replicas above 1: set ledger.database to postgresql://user@host:5432/name
{{- end }}
{{- with .Values.state.claim }}
  {{- if and .enabled $pods (ne .accessMode "ReadWriteMany") }}
state.claim.accessMode is {{ .accessMode }} and there are workers on other nodes: set it to ReadWriteMany, or state.claim.enabled to false
  {{- end }}
{{- end }}
{{- end }}

{{- define "trivium.check.addresses" -}}
{{- if .Values.state.preload }}
  {{- if not (and .Values.state.claim.enabled .Values.state.claim.existingClaim) }}
state.preload fills a claim that is there before the release is: set state.claim.enabled and state.claim.existingClaim, or state.preload to false
  {{- end }}
  {{- if not (regexMatch "^[^/:]+/[^/:]+$" (dig "expert" "model_source" "" .Values.settings)) }}
state.preload fetches from the hub and settings.expert.model_source is no hub id: set it to one such as meta-llama/Llama-3.1-8B-Instruct, or state.preload to false
  {{- end }}
{{- end }}
{{- if and .Values.milvus.uri .Values.milvus.standalone.enabled }}
milvus.uri and milvus.standalone.enabled name two servers: empty milvus.uri, or set milvus.standalone.enabled to false
{{- end }}
{{- range $key, $value := dict "ledger.database" .Values.ledger.database "milvus.uri" .Values.milvus.uri
  "proxy.http" .Values.proxy.http "proxy.https" .Values.proxy.https }}
  {{- if regexMatch "://[^/@]*:[^/@]*@" $value }}
{{ $key }} holds a password: take it out and put it into secrets.env{{ if hasPrefix "proxy" $key }} as {{ trimPrefix "proxy." $key | upper }}_PROXY, the whole address{{ end }}
  {{- end }}
{{- end }}
{{- with .Values.tracing }}
  {{- if and .endpoint .collector.enabled }}
tracing.endpoint and tracing.collector.enabled name two places: put the endpoint into tracing.collector.exportTo, or set tracing.collector.enabled to false
  {{- end }}
  {{- if and .collector.enabled (not .collector.exportTo) }}
tracing.collector.enabled without tracing.collector.exportTo: set where it sends spans, e.g. http://tempo.monitoring:4318
  {{- end }}
{{- end }}
{{- if and .Values.modelImage (semverCompare "<1.33-0" .Capabilities.KubeVersion.Version) }}
modelImage needs Kubernetes 1.33 with the feature gate ImageVolume and this is {{ .Capabilities.KubeVersion.Version }}: use state.claim instead
{{- end }}
{{- end }}

{{- define "trivium.check.secrets" -}}
{{- $secrets := .Values.secrets }}
{{- if and $secrets.env (not $secrets.existingSecret) }}
secrets.env names keys of no Secret: set secrets.existingSecret
{{- end }}
{{- if $secrets.externalSecret.enabled }}
  {{- if not (and $secrets.env $secrets.existingSecret) }}
secrets.externalSecret.enabled has nothing to fill: set secrets.existingSecret to the name it shall have, and secrets.env
  {{- end }}
  {{- if not $secrets.externalSecret.store.name }}
secrets.externalSecret.enabled without a store: set secrets.externalSecret.store.name
  {{- end }}
{{- end }}
{{- $frontier := default dict .Values.settings.frontier }}
{{- range prepend (default list $frontier.fallbacks) $frontier }}
  {{- if .provider }}
    {{- $variable := default (printf "%s_API_KEY" (splitList "-" .provider | first | upper)) .key_from }}
    {{- if not (hasKey $secrets.env $variable) }}
settings.frontier has the provider {{ .provider }} and secrets.env no {{ $variable }}: set secrets.env.{{ $variable }} to the key of the Secret that holds it
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "trivium.check.routes" -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
ingress.enabled without a host: set ingress.hosts
{{- end }}
{{- with .Values.httpRoute }}
  {{- if and .enabled (not .hostnames) }}
httpRoute.enabled without a host: set httpRoute.hostnames
  {{- end }}
  {{- if and .enabled (not .parentRefs) }}
httpRoute.enabled without a Gateway: set httpRoute.parentRefs, e.g. [{name: public, namespace: gateways}]
  {{- end }}
{{- end }}
{{- if and .Values.schedules (not .Values.client.apiKeySecret.name) (not (dig "gateway" "open" false .Values.settings)) }}
schedules have no API key and the gateway lets nobody in without one: set client.apiKeySecret.name, or settings.gateway.open to true
{{- end }}
{{- range $name, $each := .Values.schedules }}
  {{- if not (and $each.schedule $each.command) }}
schedules.{{ $name }} needs a schedule and a command: set both
  {{- end }}
{{- end }}
{{- range $name, $each := .Values.jobs }}
  {{- if not $each.entrypoint }}
jobs.{{ $name }} has nothing to run: set jobs.{{ $name }}.entrypoint
  {{- end }}
{{- end }}
{{- end }}

{{- define "trivium.check.upgrade" -}}
{{- if eq .Values.upgrade.strategy "NewClusterWithIncrementalUpgrade" }}
  {{- if not .Values.upgrade.gatewayClassName }}
upgrade.strategy is NewClusterWithIncrementalUpgrade without upgrade.gatewayClassName: set it (kubectl get gatewayclass), or the strategy to NewCluster
  {{- end }}
  {{- if not .Values.ray.autoscaling }}
upgrade.strategy is NewClusterWithIncrementalUpgrade and ray.autoscaling false: set ray.autoscaling to true, or the strategy to NewCluster
  {{- end }}
  {{- if gt (int .Values.upgrade.stepSizePercent) (int .Values.upgrade.maxSurgePercent) }}
upgrade.stepSizePercent ({{ .Values.upgrade.stepSizePercent }}) is above upgrade.maxSurgePercent ({{ .Values.upgrade.maxSurgePercent }}): lower it
  {{- end }}
{{- end }}
{{- end }}

{{/* A limit that a shorter one never lets anybody reach, or that a longer one makes pointless. */}}
{{- define "trivium.check.budgets" -}}
{{- $limits := dig "ledger" "limits" list .Values.settings }}
{{- range $day := $limits }}
  {{- range $month := $limits }}
    {{- $same := eq (list $day.of $day.name $day.tenant | toJson) (list $month.of $month.name $month.tenant | toJson) }}
    {{- if and $same (eq $day.per "day") (eq $month.per "month") $day.usd $month.usd }}
      {{- if gt (float64 $day.usd) (float64 $month.usd) }}
settings.ledger.limits: of {{ $day.of }}, usd {{ $day.usd }} a day is above usd {{ $month.usd }} a month: lower the day's or raise the month's
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}
