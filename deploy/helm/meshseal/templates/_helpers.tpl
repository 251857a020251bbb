{{- define "meshseal.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "meshseal.selector" -}}
app.kubernetes.io/name: meshseal
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "meshseal.labels" -}}
{{ include "meshseal.selector" . }}
app.kubernetes.io/component: exporter
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "meshseal.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* The --config file. With a sidecar only loopback listens: what comes in has passed it. */ -}}
{{- define "meshseal.settings" -}}
{{- $own := dict "data" "/data" "healthListen" (printf "0.0.0.0:%d" (int .Values.service.healthPort)) -}}
{{- if eq .Values.senders "istio" -}}
{{- $_ := set $own "listen" (printf "127.0.0.1:%d" (int .Values.service.port)) -}}
{{- $_ := set $own "trustXfcc" true -}}
{{- else -}}
{{- $_ := set $own "listen" (printf "0.0.0.0:%d" (int .Values.service.port)) -}}
{{- end -}}
{{- if eq .Values.senders "certificates" -}}
{{- $_ := set $own "tlsCert" "/tls/tls.crt" -}}
{{- $_ := set $own "tlsKey" "/tls/tls.key" -}}
{{- $_ := set $own "tlsClientCa" "/tls/ca.crt" -}}
{{- end -}}
{{- if eq .Values.senders "anonymous" -}}
{{- $_ := set $own "allowAnonymous" true -}}
{{- end -}}
{{- if .Values.access -}}
{{- $_ := set $own "access" "/config/access.json" -}}
{{- end -}}
{{- if .Values.anchors -}}
{{- $_ := set $own "anchors" "/config/anchors.json" -}}
{{- end -}}
{{- merge $own .Values.settings | toPrettyJson -}}
{{- end -}}
