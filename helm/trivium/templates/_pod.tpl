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
  {{- include "trivium.podMetadata" (merge (dict "annotations" (dict "checksum/prepared" (include "trivium.prepared" .root))) .) | trim | nindent 2 }}
spec:
  serviceAccountName: {{ .account | quote }}
  automountServiceAccountToken: {{ .token }}
  terminationGracePeriodSeconds: {{ add .root.Values.ray.drainSeconds 60 }}
  securityContext:
    {{- include "trivium.podSecurity" .root | nindent 4 }}
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets: {{ toJson . }}
  {{- end }}
  initContainers:
    # Serve builds the application on whichever pod is free, so each has what building asks for.
    - name: prepare
      image: {{ include "trivium.image" . }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy | quote }}
      command: [trivium, prepare, --config, /etc/trivium/settings.yaml]
      env:
        {{- include "trivium.env" .root | trim | nindent 8 }}
        {{- with include "trivium.secretEnv" .root | trim }}
        {{- . | nindent 8 }}
        {{- end }}
      resources: { requests: { cpu: "1", memory: 3Gi }, limits: { cpu: "2", memory: 3Gi } }
      securityContext:
        {{- include "trivium.containerSecurity" .root | nindent 8 }}
      volumeMounts:
        {{- include "trivium.mounts" .root | nindent 8 }}
  containers:
    - name: {{ .container | quote }}
      image: {{ include "trivium.image" . }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy | quote }}
      env:
        {{- include "trivium.env" .root | trim | nindent 8 }}
        {{- with include "trivium.secretEnv" .root | trim }}
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
      lifecycle:
        # The Service has forgotten the pod by then, and what it was answering is answered.
        preStop: { sleep: { seconds: {{ .root.Values.ray.drainSeconds }} } }
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
