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

{{/* Refuses values that contradict each other. A variable that is there twice would be one of the two without a word. */}}
{{- define "llamatower.consistent" -}}
{{- $made := list -}}
{{- if .Values.tls.existingSecret }}{{ $made = concat $made (list "LLAMATOWER_TLS_CERT" "LLAMATOWER_TLS_KEY" "LLAMATOWER_TLS_LISTENERS") }}{{ end -}}
{{- if .Values.tls.clientCA }}{{ $made = concat $made (list "LLAMATOWER_TLS_CLIENT_CA" "LLAMATOWER_TLS_CLIENT_CERTS") }}{{ end -}}
{{- if .Values.keysFile.existingSecret }}{{ $made = append $made "LLAMATOWER_KEYS_FILE" }}{{ end -}}
{{- if .Values.redis.enabled }}{{ $made = append $made "REDIS_PASSWORD" }}{{ end -}}
{{- range $made }}
{{- if hasKey $.Values.settings . }}{{ fail (printf "settings.%s: the values tls, keysFile and redis make this variable; leave one of them out" .) }}{{ end -}}
{{- end -}}
{{- if and .Values.redis.enabled .Values.redis.urlSecret }}
{{- fail "redis.enabled starts a server, and redis.urlSecret names another one; leave one of them out" }}
{{- end -}}
{{- if and .Values.tls.clientCA (not .Values.tls.existingSecret) }}
{{- fail "tls.clientCA needs tls.existingSecret: without TLS nobody shows a certificate" }}
{{- end -}}
{{- end -}}

{{/* The environment of the container, as a list. */}}
{{- define "llamatower.environment" -}}
{{- include "llamatower.consistent" . -}}
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
{{- if .Values.tls.existingSecret }}
- name: LLAMATOWER_TLS_CERT
  value: /run/tls/{{ .Values.tls.certificate }}
- name: LLAMATOWER_TLS_KEY
  value: /run/tls/{{ .Values.tls.key }}
{{- /* The port of the metrics stays plain. */}}
- name: LLAMATOWER_TLS_LISTENERS
  value: public
{{- if .Values.tls.clientCA }}
- name: LLAMATOWER_TLS_CLIENT_CA
  value: {{ ternary "/run/client-ca" "/run/tls" (not (empty .Values.tls.clientCASecret)) }}/{{ .Values.tls.clientCA }}
- name: LLAMATOWER_TLS_CLIENT_CERTS
  value: {{ .Values.tls.clientCertificates }}
{{- end }}
{{- end }}
{{- if .Values.keysFile.existingSecret }}
- name: LLAMATOWER_KEYS_FILE
  value: /run/keys/{{ .Values.keysFile.key }}
{{- end }}
{{- if .Values.redis.enabled }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.existingSecret }}
      key: {{ .Values.redis.passwordKey }}
- name: LLAMATOWER_REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ .Values.name }}-redis:6379/0
{{- else if .Values.redis.urlSecret }}
- name: LLAMATOWER_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.urlSecret }}
      key: {{ .Values.redis.urlKey }}
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

{{/* A probe of /health. */}}
{{- define "llamatower.probe" -}}
httpGet:
  path: /health
  port: http
  {{- if .Values.tls.existingSecret }}
  scheme: HTTPS
  {{- end }}
{{- end -}}
