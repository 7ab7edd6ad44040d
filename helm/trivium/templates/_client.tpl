{{/* A pod that uses the gateway as a client does. Takes (dict "root" "name" "command" "resources"),
     "withSecrets", and of one that asks the Kubernetes API its own "component" and "account". */}}

{{- define "trivium.client" -}}
{{- $service := include "trivium.service" .root | fromYaml }}
{{- $key := .root.Values.client.apiKeySecret }}
metadata:
  {{- $labels := ternary (dict "trivium/stores" "true") dict (default false .withSecrets) }}
  {{- include "trivium.podMetadata" (dict "root" .root "component" (default "client" .component) "labels" $labels) | trim | nindent 2 }}
spec:
  {{- with include "trivium.podClasses" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  serviceAccountName: {{ default (printf "%s-worker" (include "trivium.fullname" .root)) .account | quote }}
  automountServiceAccountToken: {{ not (empty .account) }}
  restartPolicy: Never
  securityContext:
    {{- include "trivium.podSecurity" .root | nindent 4 }}
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets: {{ toJson . }}
  {{- end }}
  containers:
    - name: {{ .name | quote }}
      image: {{ include "trivium.image" (dict "root" .root "group" dict) }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy | quote }}
      command: {{ toJson .command }}
      env:
        {{- include "trivium.env" .root | trim | nindent 8 }}
        {{- with (default false .withSecrets | ternary (include "trivium.secretEnv" (dict "root" .root)) "") | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        - name: NAMESPACE
          valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
        - name: TRIVIUM_URL
          value: http://{{ $service.name }}:{{ $service.port }}
        {{- if $key.name }}
        - name: TRIVIUM_API_KEY
          valueFrom: { secretKeyRef: { name: {{ $key.name | quote }}, key: {{ $key.key | quote }} } }
        {{- end }}
      resources:
        {{- toYaml .resources | nindent 8 }}
      securityContext:
        {{- include "trivium.containerSecurity" .root | nindent 8 }}
      volumeMounts:
        {{- include "trivium.mounts" .root | nindent 8 }}
  volumes:
    {{- include "trivium.volumes" .root | trim | nindent 4 }}
{{- end }}

{{/* The same on a schedule: also takes "schedule" and "timeZone". */}}
{{- define "trivium.cronJob" }}
apiVersion: batch/v1
kind: CronJob
metadata:
  # A CronJob's name has 52 characters at most.
  name: {{ include "trivium.cut" (dict "name" (printf "%s-%s" (include "trivium.fullname" .root) .name) "most" 52) | quote }}
  labels:
    {{- include "trivium.labels" (dict "root" .root) | nindent 4 }}
spec:
  schedule: {{ .schedule | quote }}
  timeZone: {{ .timeZone | quote }}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 600
  jobTemplate:
    spec:
      backoffLimit: 0
      activeDeadlineSeconds: 7200
      template:
        {{- include "trivium.client" . | nindent 8 }}
{{- end }}
