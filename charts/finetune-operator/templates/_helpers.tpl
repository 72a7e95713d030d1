{{- /* Name of the release's objects; 45 characters leave room for suffixes within the 63 of a label. */}}
{{- define "finetune-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | replace "." "-" | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- /* Name of what has no namespace: two releases of one name, each in its own namespace, do not collide. */}}
{{- define "finetune-operator.clusterName" -}}
{{- printf "%s-%s" (include "finetune-operator.fullname" .) .Release.Namespace -}}
{{- end }}

{{- define "finetune-operator.tlsSecret" -}}
{{- printf "%s-tls" (include "finetune-operator.fullname" .) -}}
{{- end }}

{{- /* Of operators that elect a leader. Those of versions before do not have it. */}}
{{- define "finetune-operator.electionLabel" -}}
finetune.dev/leader-election
{{- end }}

{{- define "finetune-operator.selectorLabelsOf" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "finetune-operator.selectorLabels" -}}
{{- include "finetune-operator.selectorLabelsOf" (dict "component" "operator" "root" .) -}}
{{- end }}

{{- define "finetune-operator.labelsOf" -}}
{{ include "finetune-operator.selectorLabelsOf" . }}
{{- with .root }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
{{- end }}

{{- define "finetune-operator.labels" -}}
{{- include "finetune-operator.labelsOf" (dict "component" "operator" "root" .) -}}
{{- end }}

{{- define "finetune-operator.image" -}}
{{- with .Values.image -}}
{{- if .reference -}}
{{- .reference -}}
{{- else if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "finetune-operator.trainerImage" -}}
{{- .Values.trainer.image | default (printf "ghcr.io/finetune-dev/finetune-trainer:%s" .Chart.AppVersion) -}}
{{- end }}

{{- /* Who brings a trainer image of another registry gets nothing from ours. */}}
{{- define "finetune-operator.scriptImage" -}}
{{- $ours := printf "ghcr.io/finetune-dev/finetune-script:%s" .Chart.AppVersion -}}
{{- coalesce .Values.trainer.scriptImage .Values.trainer.image $ours -}}
{{- end }}

{{- /* The namespaces that the operator may work in, as JSON; empty for all. */}}
{{- define "finetune-operator.namespaces" -}}
{{- if eq .Values.rbac.scope "namespaces" -}}
{{- .Values.rbac.namespaces | default (list .Release.Namespace) | sortAlpha | uniq | toJson -}}
{{- else -}}
[]
{{- end -}}
{{- end }}

{{- /* Quantities as JSON of texts: {"cpu": 4} is {"cpu": "4"}. */}}
{{- define "finetune-operator.quantities" -}}
{{- $texts := dict -}}
{{- range $name, $quantity := . -}}
{{- if kindIs "string" $quantity -}}
{{- $_ := set $texts $name $quantity -}}
{{- else -}}
{{- $_ := set $texts $name (printf "%d" (int64 $quantity)) -}}
{{- end -}}
{{- end -}}
{{- toJson $texts -}}
{{- end }}

{{- define "finetune-operator.secretNames" -}}
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}
