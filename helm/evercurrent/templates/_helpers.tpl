{{/* At most 40 characters: a router's pod, <fullname>-router-<10>-<5>, is a name of evercurrent's, which has 64 at most. */}}
{{- define "evercurrent.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Arguments: a list of the root and the component. */}}
{{- define "evercurrent.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "evercurrent.podLabels" -}}
{{ include "evercurrent.selectorLabels" . }}
app.kubernetes.io/part-of: evercurrent
{{- end }}

{{/* Not on pods: a new version of the chart alone is no reason to restart them. */}}
{{- define "evercurrent.labels" -}}
{{- $root := index . 0 -}}
{{ include "evercurrent.podLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "evercurrent.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{- define "evercurrent.serviceAccountName" -}}
{{- $root := index . 0 }}{{ $role := index . 1 }}
{{- $account := (index $root.Values $role).serviceAccount }}
{{- if $account.create }}
{{- default (printf "%s-%s" (include "evercurrent.fullname" $root) $role) $account.name }}
{{- else }}
{{- required (printf "%s.serviceAccount.name: needed where %s.serviceAccount.create is false" $role $role) $account.name }}
{{- end }}
{{- end }}

{{/* Ports are the program's own defaults; pods have addresses of their own, so nobody needs others. */}}
{{- define "evercurrent.port" -}}
{{- if eq . "router" }}7600{{ else }}7601{{ end }}
{{- end }}

{{- define "evercurrent.anyHost" -}}
{{- if .Values.network.ipv6 }}[::]{{ else }}0.0.0.0{{ end }}
{{- end }}

{{/* The name that clients call, and that the certificate of routers and workers must be valid for. */}}
{{- define "evercurrent.serverName" -}}
{{- default (printf "%s-router.%s.svc" (include "evercurrent.fullname" .) .Release.Namespace) .Values.security.tls.serverName }}
{{- end }}

{{/* A stop in seconds, with what the program waits for beside its two settings, whose defaults stand here too (a test
     compares them). The last ten are for a machine that is busy. */}}
{{- define "evercurrent.graceSeconds" -}}
{{- $root := index . 0 }}{{ $role := index . 1 }}
{{- $config := index $root.Values.config $role }}
{{- $sleep := (index $root.Values $role).preStopSleepSeconds }}
{{- if eq $role "router" }}
{{- add $sleep (default 5 $config.drain_timeout_s) 10 }}
{{- else }}
{{- add $sleep (default 20 $config.drain_timeout_s) (default 10 $config.stop_timeout_s) 10 }}
{{- end }}
{{- end }}

{{/* What the chart itself sets of the program's settings. A value of the user's in its place would break what belongs
     to it, so it is refused. */}}
{{- define "evercurrent.ownConfig" -}}
{{- $root := index . 0 }}{{ $role := index . 1 }}
{{- $security := $root.Values.security }}
{{- $own := dict "address" (printf "%s:%s" (include "evercurrent.anyHost" $root) (include "evercurrent.port" $role)) }}
{{- if $root.Values.metrics.enabled }}
{{- $_ := set $own "metrics_address" (printf "%s:9464" (include "evercurrent.anyHost" $root)) }}
{{- end }}
{{- if $security.insecure }}
{{- $_ := set $own "insecure" true }}
{{- end }}
{{- if $security.tls.secretName }}
{{- $_ := set $own "tls_certificate" "/etc/evercurrent/tls/tls.crt" }}
{{- $_ := set $own "tls_key" "/etc/evercurrent/tls/tls.key" }}
{{- $_ := set $own "tls_ca" "/etc/evercurrent/tls/ca.crt" }}
{{- $_ := set $own "tls_server_name" (include "evercurrent.serverName" $root) }}
{{- if include "evercurrent.clientCertificates" . }}
{{- $_ := set $own "tls_client_ca" "/etc/evercurrent/tls/ca.crt" }}
{{- end }}
{{- end }}
{{- if $security.clusterToken.secretName }}
{{- $_ := set $own "cluster_token_file" (printf "/etc/evercurrent/cluster/%s" $security.clusterToken.key) }}
{{- end }}
{{- if eq $role "router" }}
{{- $_ := set $own "kubernetes_service" (printf "%s/%s-worker" $root.Release.Namespace (include "evercurrent.fullname" $root)) }}
{{- $_ := set $own "kubernetes_port_name" "grpc" }}
{{- if or $security.jwks.secretName $security.jwks.configMapName }}
{{- $_ := set $own "token_jwks" (printf "/etc/evercurrent/jwks/%s" $security.jwks.key) }}
{{- end }}
{{- else if and $root.Values.embedded.enabled (not $root.Values.config.worker.store) }}
{{- $_ := set $own "store" "sqlite:/data/evercurrent.db" }}
{{- end }}
{{- toJson $own }}
{{- end }}

{{/* Not empty where who connects to this role must show a certificate. Asked where there is TLS. */}}
{{- define "evercurrent.clientCertificates" -}}
{{- $root := index . 0 }}
{{- if eq (index . 1) "router" }}
{{- if $root.Values.security.tls.clientCertificates }}yes{{ end }}
{{- else if $root.Values.config.worker.cluster_identities }}yes{{ end }}
{{- end }}

{{/* The program's config file of one role. JSON's strings, numbers, booleans and lists are TOML's as well. */}}
{{- define "evercurrent.toml" -}}
{{- $role := index . 1 -}}
{{- $own := include "evercurrent.ownConfig" . | fromJson -}}
[{{ $role }}]
{{- range $key, $value := merge $own (index (index . 0).Values.config $role) }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{ end }}

{{/* A probe of the kubelet's: it speaks gRPC, but neither TLS nor with a certificate, so there a command does. */}}
{{- define "evercurrent.probe" -}}
{{- $root := index . 0 }}{{ $role := index . 1 }}{{ $probe := index . 2 -}}
{{- if $root.Values.security.tls.secretName -}}
exec:
  command:
    - evercurrent
    - health
    - --address={{ ternary "[::1]" "127.0.0.1" $root.Values.network.ipv6 }}:{{ include "evercurrent.port" $role }}
    - --timeout={{ max 1 (sub (int (index (index $root.Values $role).probes $probe).timeoutSeconds) 1) }}
    - --tls-ca=/etc/evercurrent/tls/ca.crt
    - --tls-name={{ include "evercurrent.serverName" $root }}
    {{- if include "evercurrent.clientCertificates" (list $root $role) }}
    - --tls-certificate=/etc/evercurrent/tls/tls.crt
    - --tls-key=/etc/evercurrent/tls/tls.key
    {{- end }}
{{- else -}}
grpc:
  port: {{ include "evercurrent.port" $role }}
{{- end }}
{{ toYaml (index (index $root.Values $role).probes $probe) }}
{{- end }}

{{/* Of every pod: what the "restricted" Pod Security Standard asks for. */}}
{{- define "evercurrent.podSecurityContext" -}}
runAsNonRoot: true
{{- range $key := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- with index $.Values.podSecurity $key }}
{{ $key }}: {{ int64 . }}
{{- end }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "evercurrent.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The pod of a role, below its spec. */}}
{{- define "evercurrent.pod" -}}
{{- $root := index . 0 }}{{ $role := index . 1 }}
{{- $values := index $root.Values $role }}
{{- $security := $root.Values.security }}
metadata:
  annotations:
    checksum/config: {{ include "evercurrent.toml" . | sha256sum }}
    kubectl.kubernetes.io/default-container: {{ $role }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "evercurrent.podLabels" . | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "evercurrent.serviceAccountName" . }}
  # Only routers ask the API server for anything.
  automountServiceAccountToken: {{ eq $role "router" }}
  # Else variables like EVERCURRENT_ROUTER_PORT appear, which the program takes for settings that it does not know.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "evercurrent.graceSeconds" . }}
  securityContext:
    {{- include "evercurrent.podSecurityContext" $root | nindent 4 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    - {{ toYaml . | nindent 6 | trim }}
      {{- if not .labelSelector }}
      labelSelector:
        matchLabels:
          {{- include "evercurrent.selectorLabels" (list $root $role) | nindent 10 }}
      {{- end }}
    {{- end }}
  {{- end }}
  containers:
    - name: {{ $role }}
      image: {{ include "evercurrent.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args:
        - {{ $role }}
        {{- if eq $role "worker" }}
        - --search-path={{ $values.searchPath }}
        {{- end }}
      env:
        - name: EVERCURRENT_CONFIG
          value: /etc/evercurrent/config/evercurrent.toml
        - name: EVERCURRENT_{{ upper $role }}__NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        {{- if eq $role "worker" }}
        # Not the pod's DNS name: that goes when the pod is to end, and a worker that drains must still be called.
        - name: POD_IP
          valueFrom:
            fieldRef:
              fieldPath: status.podIP
        - name: EVERCURRENT_WORKER__ADVERTISED_ADDRESS
          value: {{ printf "%s:%s" (ternary "[$(POD_IP)]" "$(POD_IP)" $root.Values.network.ipv6) (include "evercurrent.port" $role) | quote }}
        {{- end }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- if or $values.extraEnvFrom (and (eq $role "worker") $root.Values.s3.secretName) }}
      envFrom:
        {{- if and (eq $role "worker") $root.Values.s3.secretName }}
        - secretRef:
            name: {{ $root.Values.s3.secretName }}
        {{- end }}
        {{- with $values.extraEnvFrom }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      ports:
        - name: grpc
          containerPort: {{ include "evercurrent.port" $role }}
        {{- if $root.Values.metrics.enabled }}
        - name: metrics
          containerPort: 9464
        {{- end }}
      {{- range $probe := list "startup" "liveness" "readiness" }}
      {{ $probe }}Probe:
        {{- include "evercurrent.probe" (list $root $role $probe) | nindent 8 }}
      {{- end }}
      {{- if $values.preStopSleepSeconds }}
      lifecycle:
        preStop:
          exec:
            command: ["sleep", {{ $values.preStopSleepSeconds | toString | quote }}]
      {{- end }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      securityContext:
        {{- include "evercurrent.containerSecurityContext" $root | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/evercurrent/config
          readOnly: true
        - name: tmp
          mountPath: /tmp
        {{- if $security.tls.secretName }}
        - name: tls
          mountPath: /etc/evercurrent/tls
          readOnly: true
        {{- end }}
        {{- if $security.clusterToken.secretName }}
        - name: cluster
          mountPath: /etc/evercurrent/cluster
          readOnly: true
        {{- end }}
        {{- if and (eq $role "router") (or $security.jwks.secretName $security.jwks.configMapName) }}
        - name: jwks
          mountPath: /etc/evercurrent/jwks
          readOnly: true
        {{- end }}
        {{- if and (eq $role "worker") $root.Values.embedded.enabled }}
        - name: data
          mountPath: /data
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "evercurrent.fullname" $root }}-{{ $role }}
    - name: tmp
      emptyDir:
        sizeLimit: 1Gi
    {{- if $security.tls.secretName }}
    - name: tls
      secret:
        secretName: {{ $security.tls.secretName }}
        defaultMode: 0440
    {{- end }}
    {{- if $security.clusterToken.secretName }}
    - name: cluster
      secret:
        secretName: {{ $security.clusterToken.secretName }}
        defaultMode: 0440
    {{- end }}
    {{- if eq $role "router" }}
    {{- if $security.jwks.secretName }}
    - name: jwks
      secret:
        secretName: {{ $security.jwks.secretName }}
        defaultMode: 0440
    {{- else if $security.jwks.configMapName }}
    - name: jwks
      configMap:
        name: {{ $security.jwks.configMapName }}
    {{- end }}
    {{- end }}
    {{- if and (eq $role "worker") $root.Values.embedded.enabled (not $root.Values.embedded.persistence.enabled) }}
    - name: data
      emptyDir: {}
    {{- end }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
