{{/* Name of all objects. */}}
{{- define "multiactive.name" -}}
{{- $default := printf "%s-operator" .Release.Name -}}
{{- if not (contains "multiactive" .Release.Name) }}{{ $default = printf "%s-multiactive-operator" .Release.Name }}{{ end -}}
{{- .Values.fullnameOverride | default $default | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "multiactive.serviceAccount" -}}
{{- $made := ternary (include "multiactive.name" .) "default" .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default $made -}}
{{- end }}

{{/* What selects the operator's pods. The name is fixed: the NetworkPolicies of stores let these pods in, and no others. */}}
{{- define "multiactive.selector" -}}
app.kubernetes.io/name: multiactive-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "multiactive.labels" -}}
{{ include "multiactive.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: multi-active-store
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image with the registry before it: (list $ "multiactive/redis:1"). */}}
{{- define "multiactive.image" -}}
{{- $registry := (index . 0).Values.images.registry | trimSuffix "/" -}}
{{- if $registry }}{{ $registry }}/{{ end }}{{ index . 1 -}}
{{- end }}

{{/* Rules of a role in files/rbac.yaml: (list $ "multiactive-operator"). */}}
{{- define "multiactive.rules" -}}
{{- $name := index . 1 -}}
{{- range splitList "\n---\n" ((index . 0).Files.Get "files/rbac.yaml") -}}
{{- $role := fromYaml . -}}
{{- if eq $role.metadata.name $name }}{{ toYaml $role.rules }}{{ end -}}
{{- end -}}
{{- end }}

{{/* The release catalog, as `operator run --catalog` reads it. */}}
{{- define "multiactive.catalog" -}}
default: {{ .Values.catalog.default | quote }}
releases:
  {{- range $name, $release := .Values.catalog.releases }}
  {{ $name | quote }}:
    {{- range $part, $image := $release }}
    {{ $part }}: {reference: {{ include "multiactive.image" (list $ $image.reference) | quote }}, version: {{ $image.version | quote }}}
    {{- end }}
  {{- end }}
{{- if not (hasKey .Values.catalog.releases .Values.catalog.default) }}
{{- fail (printf "catalog.default: there is no release %q in catalog.releases" .Values.catalog.default) }}
{{- end }}
{{- end }}
