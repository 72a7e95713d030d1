{{- /* What the operator's pod and the pod of `helm test` share. */}}
{{- define "finetune-operator.podSettings" -}}
serviceAccountName: {{ include "finetune-operator.fullname" . }}
automountServiceAccountToken: true
# Otherwise Kubernetes sets FINETUNE_OPERATOR_PORT and others for the Service of that name, and the operator
# refuses unknown variables.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- if not .Values.platform.assignsIDs }}
  runAsUser: 65532
  runAsGroup: 65532
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- include "finetune-operator.secretNames" . | nindent 2 }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {}
{{- end }}

{{- /* Replicas of one version on other nodes and zones, where there are any. */}}
{{- define "finetune-operator.topologySpreadConstraints" -}}
{{- $selector := dict "labelSelector" (dict "matchLabels" (include "finetune-operator.selectorLabels" . | fromYaml)) -}}
{{- $constraints := .Values.topologySpreadConstraints -}}
{{- if and (not $constraints) (gt (int64 .Values.replicas) 1) -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" -}}
{{- $one := dict "topologyKey" . "maxSkew" 1 "whenUnsatisfiable" "ScheduleAnyway" "matchLabelKeys" (list "pod-template-hash") -}}
{{- $constraints = append $constraints $one -}}
{{- end -}}
{{- end -}}
{{- range $constraints }}
- {{ hasKey . "labelSelector" | ternary . (merge (dict) (omit . "labelSelector") $selector) | toJson }}
{{- end -}}
{{- end }}

{{- define "finetune-operator.containerSettings" -}}
image: {{ include "finetune-operator.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  {{- include "finetune-operator.environment" . | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: tmp
    mountPath: /tmp
{{- end }}
