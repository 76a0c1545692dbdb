{{- define "hydrometer.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "hydrometer.selector" -}}
app.kubernetes.io/name: hydrometer
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "hydrometer.labels" -}}
{{ include "hydrometer.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "hydrometer.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{- define "hydrometer.agentSecret" -}}
{{- if eq .Values.tls.mode "certManager" -}}{{ include "hydrometer.name" . }}-agent-tls{{- else -}}{{ .Values.tls.agentSecret }}{{- end -}}
{{- end -}}

{{- define "hydrometer.controlPlaneSecret" -}}
{{- if eq .Values.tls.mode "certManager" -}}{{ include "hydrometer.name" . }}-control-tls{{- else -}}{{ .Values.tls.controlPlaneSecret }}{{- end -}}
{{- end -}}

{{/* Where agents report; empty where there is nobody to report to. */}}
{{- define "hydrometer.reportTo" -}}
{{- if .Values.agent.controlPlane.address -}}
{{ .Values.agent.controlPlane.address }}
{{- else if .Values.controlPlane.enabled -}}
https://{{ include "hydrometer.name" . }}-control.{{ .Release.Namespace }}.svc:{{ .Values.controlPlane.service.port }}
{{- end -}}
{{- end -}}

{{/* The kubelet asks the health service on the metrics port, which is there whether Prometheus comes or not. */}}
{{- define "hydrometer.probes" -}}
startupProbe:
  {{- include "hydrometer.probe" (list . "liveness") | nindent 2 }}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 60
readinessProbe:
  {{- include "hydrometer.probe" (list . "") | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  {{- include "hydrometer.probe" (list . "liveness") | nindent 2 }}
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{- define "hydrometer.probe" -}}
{{- $probe := index . 0 -}}
{{- if $probe.metrics.enabled -}}
grpc: {port: {{ $probe.metrics.port }}{{ with index . 1 }}, service: {{ . }}{{ end }}}
{{- else -}}
exec: {command: {{ toJson $probe.command }}}
{{- end -}}
{{- end -}}
