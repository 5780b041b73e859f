{{/* Names are fixed: a node has one agent, however often the chart is installed. */}}
{{- define "interceptor.labels" -}}
app.kubernetes.io/name: interceptor
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "interceptor.gatewayLabels" -}}
{{ include "interceptor.labels" . }}
app.kubernetes.io/component: gateway
{{- end }}

{{- define "interceptor.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{/* What every pod of the chart has that works on a node. */}}
{{- define "interceptor.pod" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
# The pods' processes, and through them their network namespaces, are seen in the node's pid namespace only.
hostPID: true
# The agent is not a pod that it intercepts, and is there before the cluster's network is.
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
nodeSelector: {{- toYaml .Values.nodeSelector | nindent 2 }}
tolerations: {{- toYaml .Values.tolerations | nindent 2 }}
{{- end }}

{{/*
AppArmor's profile of container runtimes forbids writing to /sys/fs/bpf and looking at processes of other pods; SELinux's
type of containers forbids both, too, and the node's directories.
*/}}
{{- define "interceptor.confinement" -}}
readOnlyRootFilesystem: true
runAsUser: 0
runAsGroup: 0
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}
appArmorProfile:
  type: Unconfined
{{- end }}
seLinuxOptions:
  type: spc_t
{{- end }}

{{- define "interceptor.appArmor" -}}
{{- if not (semverCompare ">=1.30.0-0" .root.Capabilities.KubeVersion.Version) }}
{{- range .containers }}
container.apparmor.security.beta.kubernetes.io/{{ . }}: unconfined
{{- end }}
{{- end }}
{{- end }}
