{{- define "qtts.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end -}}
{{- end -}}

{{- define "qtts.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "qtts.labels" -}}
{{ include "qtts.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "qtts.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "qtts.name" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end -}}
{{- end -}}

{{- define "qtts.keysSecret" -}}
{{- if .Values.auth.existingSecret }}{{ .Values.auth.existingSecret }}
{{- else if .Values.auth.keys }}{{ include "qtts.name" . }}-keys{{ end -}}
{{- end -}}

{{- define "qtts.config" -}}
{{- $server := dict "host" "0.0.0.0" "port" 8000 -}}
{{- $added := dict "server" $server -}}
{{- if include "qtts.keysSecret" . }}{{ $_ := set $added "auth" (dict "keys_file" "/etc/qtts/keys/api-keys") }}{{ end -}}
{{- if .Values.redis.url }}{{ $_ := set $added "limits" (dict "store" .Values.redis.url) }}{{ end -}}
{{- $voices := dict "directory" "/data/voices" -}}
{{- if .Values.voices.bucket }}{{ $_ := set $voices "object_store" .Values.voices.bucket }}{{ end -}}
{{- $_ := set $added "voices" $voices -}}
{{- if gt (int .Values.gpu.count) 0 }}
{{- $_ := set $added "engine" (dict "device" "cuda" "data_parallel_size" (int .Values.gpu.count)) }}
{{- end -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) $added) -}}
{{- end -}}
