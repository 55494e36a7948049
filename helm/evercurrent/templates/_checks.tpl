{{/* Values that contradict each other, or that leave open what must be said. Each message begins with a value's path. */}}
{{- define "evercurrent.check" -}}
{{- $security := .Values.security }}
{{- range $role := list "router" "worker" }}
{{- $config := index $.Values.config $role }}
{{- range $key := list "name" "address" "advertised_address" "metrics_address" "workers" "kubernetes_service" "kubernetes_port_name" "kubernetes_kubeconfig" "kubernetes_context" "tls_certificate" "tls_key" "tls_client_ca" "tls_ca" "tls_server_name" "cluster_token_file" "insecure" }}
{{- if hasKey $config $key }}
{{- fail (printf "config.%s.%s: the chart sets it" $role $key) }}
{{- end }}
{{- end }}
{{- end }}

{{- $store := default "" .Values.config.worker.store }}
{{- if .Values.embedded.enabled }}
{{- if gt (int .Values.worker.replicas) 1 }}
{{- fail "worker.replicas: must be 1 with embedded.enabled, for pods cannot share a file" }}
{{- end }}
{{- if and $store (not (hasPrefix "sqlite:/data/" $store)) }}
{{- fail "config.worker.store: must be sqlite:/data/… with embedded.enabled; the volume is there" }}
{{- end }}
{{- else if not (hasPrefix "s3://" $store) }}
{{- fail "config.worker.store: must be s3://BUCKET/PREFIX, which all pods reach; or set embedded.enabled for one worker on a file of its own" }}
{{- end }}

{{- $hasJwks := or $security.jwks.secretName $security.jwks.configMapName }}
{{- if and $security.jwks.secretName $security.jwks.configMapName }}
{{- fail "security.jwks.configMapName: security.jwks.secretName is set too, and the keys come from one of them" }}
{{- end }}
{{- if and $hasJwks .Values.config.router.token_jwks }}
{{- fail "config.router.token_jwks: security.jwks is set too, and the keys come from one of them" }}
{{- end }}
{{- $hasTokens := or $hasJwks .Values.config.router.token_jwks }}
{{- if and $hasTokens (not .Values.config.router.token_audience) }}
{{- fail "config.router.token_audience: needed with tokens, or those for other services would be taken" }}
{{- end }}
{{- if not $security.tls.secretName }}
{{- if not $security.insecure }}
{{- fail "security.tls.secretName: name a Secret with tls.crt, tls.key and ca.crt; or say security.insecure: true, and whoever reaches a pod can read and write everything" }}
{{- end }}
{{- if $security.tls.clientCertificates }}
{{- fail "security.tls.clientCertificates: needs security.tls.secretName" }}
{{- end }}
{{- if $security.clusterToken.secretName }}
{{- fail "security.clusterToken.secretName: needs security.tls.secretName, or the token would be sent in the clear" }}
{{- end }}
{{- if $hasTokens }}
{{- fail (printf "%s: needs security.tls.secretName, or tokens would be sent in the clear" (ternary "security.jwks" "config.router.token_jwks" (not (not $hasJwks)))) }}
{{- end }}
{{- if .Values.config.worker.cluster_identities }}
{{- fail "config.worker.cluster_identities: needs security.tls.secretName, for the names are in certificates" }}
{{- end }}
{{- else if not $security.insecure }}
{{- if not (or $security.clusterToken.secretName .Values.config.worker.cluster_identities) }}
{{- fail "security.clusterToken.secretName: workers must know who calls them: name a Secret, or set config.worker.cluster_identities; or say security.insecure: true" }}
{{- end }}
{{- if not (or $hasTokens $security.tls.clientCertificates) }}
{{- fail "security.jwks: routers must know who calls them: name a Secret or ConfigMap with the keys of tokens, or set config.router.token_jwks or security.tls.clientCertificates; or say security.insecure: true" }}
{{- end }}
{{- end }}

{{- if and .Values.router.autoscaling.enabled (not (dig "requests" "cpu" "" .Values.router.resources)) }}
{{- fail "router.resources.requests.cpu: router.autoscaling scales by a share of it" }}
{{- end }}
{{- if and .Values.router.autoscaling.enabled (gt (int .Values.router.autoscaling.minReplicas) (int .Values.router.autoscaling.maxReplicas)) }}
{{- fail "router.autoscaling.minReplicas: above router.autoscaling.maxReplicas" }}
{{- end }}
{{- range $kind := list "podMonitor" "serviceMonitor" "prometheusRule" }}
{{- if and (index $.Values.metrics $kind).enabled (not $.Values.metrics.enabled) }}
{{- fail (printf "metrics.%s.enabled: needs metrics.enabled" $kind) }}
{{- end }}
{{- end }}
{{- if and .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled }}
{{- fail "metrics.serviceMonitor.enabled: metrics.podMonitor.enabled is set too, and everything would be counted twice" }}
{{- end }}
{{- if and .Values.tests.token.secretName (not $security.tls.secretName) }}
{{- fail "tests.token.secretName: needs security.tls.secretName, or the token would be sent in the clear" }}
{{- end }}
{{- end }}
