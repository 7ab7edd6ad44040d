{{/* Names, labels, images, addresses and security contexts. Every other template takes them from here. */}}

{{/* A name of at most `most` characters. What is cut off or replaced goes on in a hash, so that two names stay two.
     Takes (dict "name" "most"). Services and RayServices take no dots. */}}
{{- define "trivium.cut" -}}
{{- $name := .name | replace "." "-" }}
{{- if or (ne $name .name) (gt (len $name) (int .most)) }}
  {{- $name = printf "%s-%s" ($name | trunc (sub (int .most) 9 | int) | trimSuffix "-") (.name | sha256sum | trunc 8) }}
{{- end }}
{{- $name }}
{{- end }}

{{/* Services and RayServices begin with a letter, which a release need not. */}}
{{- define "trivium.fullname" -}}
{{- $name := default .Release.Name .Values.fullnameOverride }}
{{- include "trivium.cut" (dict "name" (regexMatch "^[0-9]" $name | ternary (printf "trivium-%s" $name) $name) "most" 40) }}
{{- end }}

{{/* What pods are selected by. Takes (dict "root" $ "component" …); without a component, all pods.
     Not by their app.kubernetes.io/name: of Ray's pods that is the operator's to say. */}}
{{- define "trivium.selector" -}}
app.kubernetes.io/instance: {{ include "trivium.fullname" .root | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "trivium.labels" -}}
{{ include "trivium.selector" . }}
app.kubernetes.io/name: trivium
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: trivium
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | quote }}
{{- with .queue }}
kueue.x-k8s.io/queue-name: {{ . | quote }}
{{- end }}
{{- end }}

{{/* What `pods` says of a pod, and over it `pod` of its group. Takes (dict "root" "group"). */}}
{{- define "trivium.podValues" -}}
{{- mergeOverwrite (deepCopy .root.Values.pods) (deepCopy (dig "pod" dict (default dict .group))) | toJson }}
{{- end }}

{{/* Labels and annotations of a pod. Also takes "component", "labels" and, of Ray's, "annotations". */}}
{{- define "trivium.podMetadata" -}}
{{- $pod := include "trivium.podValues" . | fromJson }}
{{- $own := deepCopy (default dict .annotations) }}
{{- with .root.Values.secrets.revision }}{{ $_ := set $own "checksum/secrets" (sha256sum . | trunc 16) }}{{ end }}
labels:
  {{- merge (include "trivium.selector" . | fromYaml) (default dict .labels) $pod.labels | toYaml | nindent 2 }}
{{- with merge $own $pod.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "trivium.podClasses" -}}
{{- $pod := include "trivium.podValues" . | fromJson }}
{{- range $key := list "priorityClassName" "runtimeClassName" }}
{{- with index $pod $key }}
{{ $key }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Pods in which Ray runs, of this release: selector of policies between them. */}}
{{- define "trivium.rayPods" -}}
matchLabels:
  {{- include "trivium.selector" (dict "root" .) | nindent 2 }}
matchExpressions:
  - { key: ray.io/node-type, operator: Exists }
{{- end }}

{{- define "trivium.image" -}}
{{- $kind := ternary "gpu" "cpu" (gt (int (dig "gpu" "count" 0 .group)) 0) }}
{{- $image := .root.Values.image }}
{{- $tag := eq $kind "gpu" | ternary $image.gpuTag $image.tag }}
{{- default (printf "%s:%s" $image.repository (default (printf "%s-%s" .root.Chart.AppVersion $kind) $tag)) .group.image }}
{{- end }}

{{/* The restricted Pod Security Standard, and the first half of a container's. */}}
{{- define "trivium.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.podSecurity.runAsUser | int64 }}
runAsGroup: {{ .Values.podSecurity.fsGroup | int64 }}
fsGroup: {{ .Values.podSecurity.fsGroup | int64 }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "trivium.containerSecurity" -}}
runAsNonRoot: true
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{/* Service that clients and routes ask: the one KubeRay keeps on the active cluster, or its Gateway's. */}}
{{- define "trivium.service" -}}
{{- if eq .Values.upgrade.strategy "NewClusterWithIncrementalUpgrade" -}}
name: {{ default (printf "%s-gateway-%s" (include "trivium.fullname" .) .Values.upgrade.gatewayClassName) .Values.upgrade.gatewayService | quote }}
port: 80
{{- else -}}
name: {{ include "trivium.fullname" . }}-serve-svc
port: 8000
{{- end }}
{{- end }}

{{/* A group of workers, or a job, with the defaults of its kind. */}}
{{- define "trivium.withDefaults" -}}
{{- mergeOverwrite (deepCopy .defaults) .item | toJson }}
{{- end }}

{{/* Groups of workers that are enabled, by name. */}}
{{- define "trivium.workers" -}}
{{- $groups := dict }}
{{- range $name, $group := .Values.workers }}
  {{- $whole := include "trivium.withDefaults" (dict "defaults" $.Values.workerDefaults "item" $group) | fromJson }}
  {{- if $whole.enabled }}{{ $_ := set $groups $name $whole }}{{ end }}
{{- end }}
{{- $groups | toJson }}
{{- end }}

{{/* Addresses that the values name, each with the port that it means: JSON of [[address, port]…]. */}}
{{- define "trivium.addresses" -}}
{{- $found := list }}
{{- range list
  (list .Values.milvus.uri (hasPrefix "https" .Values.milvus.uri | ternary "443" "80"))
  (list (splitList "@" .Values.ledger.database | last) "5432")
  (list .Values.faultTolerance.redisAddress "6379")
  (list .Values.tracing.endpoint "4318")
  (list .Values.monitoring.prometheusHost "80")
  (list .Values.monitoring.grafanaHost "80") }}
  {{- if first . }}{{ $found = append $found . }}{{ end }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{- define "trivium.host" -}}
{{- regexFind "^[^:/]+" (regexReplaceAll "^[a-z]+://" . "") }}
{{- end }}

{{/* Port of an address such as http://host:19530 or host:6379. Takes (dict "address" "default"). */}}
{{- define "trivium.port" -}}
{{- regexFind ":[0-9]+" (regexReplaceAll "^[a-z]+://" .address "") | trimPrefix ":" | default .default }}
{{- end }}
