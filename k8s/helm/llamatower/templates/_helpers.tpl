{{/* A value of a variable as text. Helm reads whole numbers as floats, which would print as 1e+06. */}}
{{- define "llamatower.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* Metadata with the name of the release's objects. */}}
{{- define "llamatower.metadata" -}}
name: {{ .Values.name }}
namespace: {{ .Release.Namespace }}
{{- end -}}

{{- define "llamatower.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{/* The environment of the container, as a list. */}}
{{- define "llamatower.environment" -}}
{{- range $name, $value := .Values.settings }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ $name }}
  value: {{ include "llamatower.text" $value | quote }}
{{- end }}
{{- end }}
{{- if and .Values.monitoring.enabled (not (hasKey .Values.settings "LLAMATOWER_METRICS_LISTEN")) }}
- name: LLAMATOWER_METRICS_LISTEN
  value: {{ printf "0.0.0.0:%s" (include "llamatower.text" .Values.monitoring.port) | quote }}
{{- end }}
{{- if .Values.secrets.existingSecret }}
{{- range .Values.secrets.variables }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.secrets.existingSecret }}
      key: {{ . }}
      optional: true
{{- end }}
{{- end }}
{{- end -}}
