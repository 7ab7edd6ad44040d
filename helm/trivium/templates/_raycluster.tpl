{{/* The RayCluster under the RayService: who may talk to it, its head and its groups of workers. */}}

{{- define "trivium.rayCluster" -}}
{{- $name := include "trivium.fullname" . }}
{{- include "trivium.rayCommon" . }}
enableInTreeAutoscaling: {{ .Values.ray.autoscaling }}
{{- if .Values.ray.autoscaling }}
autoscalerOptions:
  version: v2
  idleTimeoutSeconds: {{ .Values.ray.idleTimeoutSeconds }}
  resources: {{ toJson .Values.ray.autoscalerResources }}
  securityContext:
    {{- include "trivium.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - { name: tmp, mountPath: /tmp }
{{- end }}
{{- with .Values.faultTolerance }}
{{- if .redisAddress }}
gcsFaultToleranceOptions:
  redisAddress: {{ .redisAddress | quote }}
  {{- with .passwordSecret }}
  {{- if .name }}
  redisPassword: { valueFrom: { secretKeyRef: { name: {{ .name | quote }}, key: {{ .key | quote }} } } }
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}
headGroupSpec:
  rayStartParams:
    dashboard-host: 0.0.0.0
    num-cpus: {{ .Values.head.numCpus | quote }}
  template:
    {{- include "trivium.pod" (dict "root" . "group" .Values.head "component" "head" "container" "ray-head"
      "account" (include "trivium.headAccount" .) "token" .Values.ray.autoscaling) | nindent 4 }}
{{- with include "trivium.workers" . | fromJson }}
workerGroupSpecs:
  {{- range $group, $spec := . }}
  # How many pods there are is the autoscaler's to say: `replicas` is not declared.
  - groupName: {{ $group | quote }}
    minReplicas: {{ $spec.minReplicas }}
    maxReplicas: {{ $spec.maxReplicas }}
    {{- if and $spec.priority (ne $.Values.ray.operatorVersion "1.6") }}
    priority: {{ $spec.priority }}
    {{- end }}
    rayStartParams:
      num-cpus: {{ $spec.numCpus | quote }}
      {{- if gt (int $spec.gpu.count) 0 }}
      num-gpus: {{ $spec.gpu.count | quote }}
      {{- end }}
    template:
      {{- include "trivium.pod" (dict "root" $ "group" $spec "component" $group "container" "ray-worker"
        "account" (printf "%s-worker" $name) "token" false) | nindent 6 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* With Redis the head has no account of the chart's: the pod that removes its state is like it, and starts when Helm
     has deleted those, and a Secret that External Secrets made. The operator makes an account for the autoscaler that lives as
     long as the cluster. */}}
{{- define "trivium.headAccount" -}}
{{- if not .Values.faultTolerance.redisAddress -}}
{{ include "trivium.fullname" . }}-head
{{- end }}
{{- end }}

{{/* What the clusters of the RayService and of the RayJobs have in common. */}}
{{- define "trivium.rayCommon" -}}
rayVersion: {{ .Values.ray.version | quote }}
{{- if .Values.ray.tokenAuth }}
authOptions: { mode: token }
{{- end }}
{{- end }}
