{{- /* The operator's settings, see core/finetune_core/settings.py. What is empty here keeps the default there. */}}
{{- define "finetune-operator.environment" -}}
{{- $prefix := "FINETUNE_OPERATOR_" -}}
- name: {{ $prefix }}NAMESPACES
  value: {{ include "finetune-operator.namespaces" . | quote }}
{{- with .Values.trainer }}
- name: {{ $prefix }}TRAINER_IMAGE
  value: {{ include "finetune-operator.trainerImage" $ | quote }}
- name: {{ $prefix }}SCRIPT_IMAGE
  value: {{ include "finetune-operator.scriptImage" $ | quote }}
- name: {{ $prefix }}IMAGE_PULL_POLICY
  value: {{ .pullPolicy | quote }}
- name: {{ $prefix }}ALLOWED_IMAGES
  value: {{ .allowedImages | toJson | quote }}
- name: {{ $prefix }}ALLOWED_PRIORITY_CLASSES
  value: {{ .allowedPriorityClasses | toJson | quote }}
- name: {{ $prefix }}ALLOWED_TOLERATIONS
  value: {{ .allowedTolerations | toJson | quote }}
- name: {{ $prefix }}REQUESTS
  value: {{ include "finetune-operator.quantities" .requests | quote }}
- name: {{ $prefix }}LIMITS
  value: {{ include "finetune-operator.quantities" .limits | quote }}
- name: {{ $prefix }}NODE_SELECTOR
  value: {{ .nodeSelector | toJson | quote }}
- name: {{ $prefix }}TOLERATIONS
  value: {{ .tolerations | toJson | quote }}
- name: {{ $prefix }}IMAGE_PULL_SECRETS
  value: {{ .imagePullSecrets | toJson | quote }}
{{- with .runtimeClass }}
- name: {{ $prefix }}RUNTIME_CLASS
  value: {{ . | quote }}
{{- end }}
- name: {{ $prefix }}POD_LABELS
  value: {{ .podLabels | toJson | quote }}
- name: {{ $prefix }}POD_ANNOTATIONS
  value: {{ .podAnnotations | toJson | quote }}
{{- with .hub.endpoint }}
- name: {{ $prefix }}HUB_ENDPOINT
  value: {{ . | quote }}
{{- end }}
- name: {{ $prefix }}HUB_OFFLINE
  value: {{ .hub.offline | quote }}
- name: {{ $prefix }}RUN_AS_USER
  value: {{ int64 .uid | quote }}
- name: {{ $prefix }}RUN_AS_GROUP
  value: {{ int64 .gid | quote }}
- name: {{ $prefix }}FS_GROUP
  value: {{ int64 .fsGroup | quote }}
{{- end }}
{{- with .Values.defaults }}
- name: {{ $prefix }}OUTPUT_SIZE
  value: {{ .output.size | quote }}
{{- with .output.storageClass }}
- name: {{ $prefix }}OUTPUT_STORAGE_CLASS
  value: {{ . | quote }}
{{- end }}
{{- with .output.accessMode }}
- name: {{ $prefix }}OUTPUT_ACCESS_MODE
  value: {{ . | quote }}
{{- end }}
- name: {{ $prefix }}GPUS_PER_NODE
  value: {{ int64 .gpusPerNode | quote }}
- name: {{ $prefix }}GPU_RESOURCE
  value: {{ .gpuResource | quote }}
- name: {{ $prefix }}NODE_LOST_SECONDS
  value: {{ int64 .nodeLostSeconds | quote }}
- name: {{ $prefix }}STARTUP_DEADLINE
  value: {{ int64 .startupDeadlineSeconds | quote }}
{{- with .gpuMemory }}
- name: {{ $prefix }}GPU_MEMORY
  value: {{ . | quote }}
{{- end }}
- name: {{ $prefix }}PREFLIGHT
  value: {{ .preflight | quote }}
{{- end }}
- name: {{ $prefix }}KUEUE
  value: {{ .Values.kueue.enabled | quote }}
- name: {{ $prefix }}PRIORITY_BOOST
  value: {{ int64 .Values.kueue.priorityBoost | quote }}
- name: {{ $prefix }}PLATFORM_IDS
  value: {{ .Values.platform.assignsIDs | quote }}
- name: {{ $prefix }}SIMULATE_GPUS
  value: {{ .Values.platform.simulateGPUs | quote }}
{{- if .Values.progress.enabled }}
- name: {{ $prefix }}PROGRESS_URL
  value: {{ printf "https://%s.%s.svc" (include "finetune-operator.fullname" .) .Release.Namespace | quote }}
- name: {{ $prefix }}TLS_SECRET
  value: {{ printf "%s/%s" .Release.Namespace (include "finetune-operator.tlsSecret" .) | quote }}
{{- end }}
- name: {{ $prefix }}LEASE
  value: {{ printf "%s/%s" .Release.Namespace (include "finetune-operator.fullname" .) | quote }}
- name: {{ $prefix }}IDENTITY
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: {{ $prefix }}ADDRESS
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- $selector := list }}
{{- range $label, $value := include "finetune-operator.selectorLabels" . | fromYaml }}
{{- $selector = append $selector (printf "%s=%s" $label $value) }}
{{- end }}
{{- $selector = append $selector (printf "!%s" (include "finetune-operator.electionLabel" .)) }}
- name: {{ $prefix }}PREDECESSORS
  value: {{ join "," $selector | quote }}
- name: {{ $prefix }}WORKERS
  value: {{ int64 .Values.operator.workers | quote }}
- name: {{ $prefix }}LOG_FORMAT
  value: {{ .Values.operator.logFormat | quote }}
- name: {{ $prefix }}LOG_LEVEL
  value: {{ .Values.operator.logLevel | quote }}
{{- end }}
