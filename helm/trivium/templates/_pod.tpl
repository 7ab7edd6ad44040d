{{/* The pod template of Ray's pods: head, workers and jobs differ in what they are given. */}}

{{- define "trivium.resources" -}}
{{- $resources := deepCopy .resources }}
{{- if gt (int (dig "gpu" "count" 0 .)) 0 }}
  {{- $gpus := dict .gpu.resource (int .gpu.count | toString) }}
  {{- $resources = mergeOverwrite $resources (dict "limits" $gpus "requests" $gpus) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* Takes (dict "root" "group" "component" "container" "account" "token"). */}}
{{- define "trivium.pod" -}}
metadata:
  {{- include "trivium.podMetadata" . | trim | nindent 2 }}
spec:
  {{- with .account }}
  serviceAccountName: {{ . | quote }}
  {{- end }}
  automountServiceAccountToken: {{ .token }}
  terminationGracePeriodSeconds: {{ add .root.Values.ray.drainSeconds (include "trivium.patience" .root) 30 }}
  securityContext:
    {{- include "trivium.podSecurity" .root | nindent 4 }}
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets: {{ toJson . }}
  {{- end }}
  containers:
    - name: {{ .container | quote }}
      image: {{ include "trivium.image" . }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy | quote }}
      env:
        {{- include "trivium.env" .root | trim | nindent 8 }}
        {{- with include "trivium.secretEnv" (dict "root" .root "optional" (not .account)) | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with (eq .container "ray-head" | ternary (include "trivium.dashboardEnv" .root) "") | trim }}
        {{- . | nindent 8 }}
        {{- end }}
      {{- if eq .container "ray-head" }}
      ports:
        - { name: gcs-server, containerPort: 6379 }
        - { name: dashboard, containerPort: 8265 }
        - { name: client, containerPort: 10001 }
        - { name: serve, containerPort: 8000 }
        - { name: as-metrics, containerPort: 44217 }
        - { name: dash-metrics, containerPort: 44227 }
      {{- else }}
      ports:
        - { name: serve, containerPort: 8000 }
      {{- end }}
      {{- if ne .component "job" }}
      lifecycle:
        preStop:
          exec:
            # The operator sets RAY_ADDRESS.
            command:
              - sh
              - -c
              - exec python -m serve_app.cluster.drain --address "$RAY_ADDRESS" --replace {{ .root.Values.ray.drainSeconds }} --finish {{ include "trivium.patience" .root }}
      {{- include "trivium.probes" . | nindent 6 }}
      {{- end }}
      resources:
        {{- include "trivium.resources" .group | nindent 8 }}
      securityContext:
        {{- include "trivium.containerSecurity" .root | nindent 8 }}
      volumeMounts:
        {{- include "trivium.mounts" .root | nindent 8 }}
  volumes:
    {{- include "trivium.volumes" .root | trim | nindent 4 }}
  {{- with include "trivium.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* In place of the operator's, which start a shell and a client of HTTP each time and allow it two seconds: on a
     node whose CPUs are busy, a pod that answers would be taken out of the Service. */}}
{{- define "trivium.probes" -}}
readinessProbe:
  httpGet: {{ eq .container "ray-head" | ternary "{ path: /api/gcs_healthz, port: 8265 }" "{ path: /-/healthz, port: 8000 }" }}
  initialDelaySeconds: 2
  periodSeconds: 3
  timeoutSeconds: 10
  failureThreshold: 5
livenessProbe:
  httpGet: { path: /api/local_raylet_healthz, port: 52365 }
  initialDelaySeconds: 30
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 30
{{- end }}

{{/* Seconds that a request may take. */}}
{{- define "trivium.patience" -}}
{{ dig "gateway" "request_timeout_s" 300 .Values.settings | int64 }}
{{- end }}

{{- define "trivium.placement" -}}
{{- include "trivium.podClasses" . }}
{{- with .group.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .group.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .group.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- with .root.Values.topologySpread }}
topologySpreadConstraints:
  {{- range . }}
  - {{ merge (dict "labelSelector" (dict "matchLabels" (include "trivium.selector" $ | fromYaml))) . | toJson }}
  {{- end }}
{{- end }}
{{- end }}
