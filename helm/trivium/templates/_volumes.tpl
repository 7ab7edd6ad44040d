{{/* Where Trivium's containers read and write: the root file system is read-only. */}}

{{- define "trivium.mounts" -}}
- { name: tmp, mountPath: /tmp }
- { name: state, mountPath: {{ include "trivium.stateDir" . | quote }} }
- { name: config, mountPath: /etc/trivium, readOnly: true }
{{- if .Values.machinePrices.enabled }}
- { name: machines, mountPath: /etc/trivium-machines, readOnly: true }
{{- end }}
{{- if .Values.modelImage }}
- { name: models, mountPath: /models, readOnly: true }
{{- end }}
{{- if .Values.caBundle.configMap }}
- { name: ca, mountPath: /etc/trivium-ca, readOnly: true }
{{- end }}
{{- with .Values.ray.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "trivium.caVolume" -}}
{{- with .Values.caBundle }}
{{- if .configMap }}
- { name: ca, configMap: { name: {{ .configMap | quote }}, items: [{ key: {{ .key | quote }}, path: ca-certificates.crt }] } }
{{- end }}
{{- end }}
{{- end }}

{{- define "trivium.volumes" -}}
{{- $claim := .Values.state.claim }}
- { name: tmp, emptyDir: {} }
# Optional: the operator removes what the head keeps in Redis after the chart's objects are gone, in a pod like the head.
- { name: config, configMap: { name: {{ include "trivium.fullname" . }}-config, optional: true } }
{{- if $claim.enabled }}
- { name: state, persistentVolumeClaim: { claimName: {{ default (printf "%s-state" (include "trivium.fullname" .)) $claim.existingClaim | quote }} } }
{{- else }}
- { name: state, emptyDir: { sizeLimit: {{ .Values.state.emptyDirSize | quote }} } }
{{- end }}
{{- if .Values.machinePrices.enabled }}
- { name: machines, configMap: { name: {{ include "trivium.fullname" . }}-machines, optional: true } }
{{- end }}
{{- with .Values.modelImage }}
- { name: models, image: { reference: {{ . | quote }}, pullPolicy: IfNotPresent } }
{{- end }}
{{- include "trivium.caVolume" . }}
{{- with .Values.ray.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
