{{/* Labels of every object, beside its name. */}}
{{- define "praetor.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: praetor
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The objects of a manifest that kustomize uses as well: (list CONTEXT PATH), in the release's namespace, or
(list CONTEXT PATH NAMESPACE), in another one. */}}
{{- define "praetor.manifest" -}}
{{- $context := index . 0 -}}
{{- $namespace := "" -}}
{{- if gt (len .) 2 }}{{ $namespace = index . 2 }}{{ end -}}
{{- range $document := splitList "\n---\n" ($context.Files.Get (index . 1) | replace "praetor-system" $context.Release.Namespace) }}
{{- $object := fromYaml $document }}
{{- $labels := include "praetor.labels" $context | fromYaml }}
{{- $_ := set $object.metadata "labels" (merge $labels (default dict $object.metadata.labels)) }}
{{- if $namespace }}{{ $_ := set $object.metadata "namespace" $namespace }}{{ end }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}

{{/* Stop with a sentence where the cluster is older than a value needs: (list CONTEXT VALUE VERSION). */}}
{{- define "praetor.needs" -}}
{{- $version := (index . 0).Capabilities.KubeVersion.Version }}
{{- if not (semverCompare (printf ">=%s-0" (index . 2)) $version) }}
{{- fail (printf "%s needs Kubernetes %s or later, and this is %s; set it to false" (index . 1) (index . 2) $version) }}
{{- end }}
{{- end }}

{{/* A Secret that is made once and then kept: (list CONTEXT VALUE NAME KEY). */}}
{{- define "praetor.generated" -}}
{{- $context := index . 0 }}
{{- $name := index . 2 }}
{{- if not (lookup "v1" "Namespace" "" "kube-system") }}
{{- fail (printf "%s: without the cluster every rendering would make another secret; create one (see deploy/README.md) and write its name here" (index . 1)) }}
{{- end }}
{{- $there := lookup "v1" "Secret" $context.Release.Namespace $name }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ $name }}
  namespace: {{ $context.Release.Namespace }}
  labels:
    {{- include "praetor.labels" $context | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep # it is the identity of every device, and outlives the release
data:
  {{- if $there }}
  {{- toYaml $there.data | nindent 2 }}
  {{- else }}
  {{ index . 3 }}: {{ printf "%x" (randBytes 32 | b64dec) | b64enc }}
  {{- end }}
{{- end }}

{{/* What both programs' Pods share at the Pod's level: (list CONTEXT VALUES). */}}
{{- define "praetor.placement" -}}
{{- $values := index . 1 }}
{{- with (index . 0).Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* A container's image: (list CONTEXT PROGRAM). */}}
{{- define "praetor.image" -}}
{{- $values := (index . 0).Values -}}
{{ $values.image.registry }}/praetor-{{ index . 1 }}:{{ (index $values (index . 1)).tag }}
{{- end }}
