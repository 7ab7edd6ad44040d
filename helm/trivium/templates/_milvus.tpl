{{/* Milvus in one process: etcd inside, files instead of object storage. */}}

{{- define "trivium.milvusPod" -}}
metadata:
  labels:
    {{- include "trivium.selector" (dict "root" . "component" "milvus") | nindent 4 }}
spec:
  automountServiceAccountToken: false
  securityContext:
    {{- include "trivium.podSecurity" . | nindent 4 }}
  containers:
    - name: milvus
      image: {{ .Values.milvus.standalone.image | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
      command: [milvus, run, standalone]
      env:
        - { name: DEPLOY_MODE, value: STANDALONE }
        - { name: ETCD_USE_EMBED, value: "true" }
        - { name: ETCD_DATA_DIR, value: /var/lib/milvus/etcd }
        - { name: COMMON_STORAGETYPE, value: local }
      ports:
        - { name: grpc, containerPort: 19530 }
        - { name: health, containerPort: 9091 }
      startupProbe: { httpGet: { path: /healthz, port: health }, periodSeconds: 5, failureThreshold: 60 }
      readinessProbe: { httpGet: { path: /healthz, port: health }, periodSeconds: 10 }
      livenessProbe: { httpGet: { path: /healthz, port: health }, periodSeconds: 30, timeoutSeconds: 5 }
      resources:
        {{- toYaml .Values.milvus.standalone.resources | nindent 8 }}
      securityContext:
        {{- include "trivium.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - { name: data, mountPath: /var/lib/milvus }
        - { name: tmp, mountPath: /tmp }
  volumes:
    - { name: tmp, emptyDir: {} }
{{- end }}

{{/* Milvus and the collector: only Ray's pods and clients may ask. Takes "root", "component", "ports", "egress". */}}
{{- define "trivium.besidePolicy" -}}
{{- if .root.Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "trivium.fullname" .root }}-{{ .component }}
  labels:
    {{- include "trivium.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "trivium.selector" . | nindent 6 }}
  policyTypes: [Ingress{{ if .egress }}, Egress{{ end }}]
  ingress:
    - from:
        - podSelector:
            matchLabels:
              {{- include "trivium.selector" (dict "root" .root) | nindent 14 }}
      {{- include "trivium.ports" .ports | nindent 6 }}
  {{- with .egress }}
  egress:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
