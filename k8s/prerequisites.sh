#!/usr/bin/env bash
# What Trivium needs of a cluster, installed or brought up to date, by Helm and with fixed versions.
#
#   k8s/prerequisites.sh kuberay                      # always
#   k8s/prerequisites.sh gpu                          # nodes with NVIDIA GPUs that are not set up yet
#   k8s/prerequisites.sh cert-manager milvus          # a Milvus cluster of its own (milvus.uri)
#   k8s/prerequisites.sh monitoring                   # Prometheus, Grafana, alerts
#   k8s/prerequisites.sh gateway                      # Gateway API and Istio: incremental upgrades
#   k8s/prerequisites.sh --dry-run kuberay gpu        # says what it would do
#
# Only KubeRay's version is one that the manifests are checked against; none of the others was installed
# here, so look up what is current. A version is changed by its variable: KUBERAY=1.7.1 k8s/prerequisites.sh kuberay
set -euo pipefail

KUBERAY=${KUBERAY:-1.7.0}
GPU_OPERATOR=${GPU_OPERATOR:-v26.7.0}
CERT_MANAGER=${CERT_MANAGER:-v1.19.1}
MILVUS_OPERATOR=${MILVUS_OPERATOR:-1.3.0}
PROMETHEUS_STACK=${PROMETHEUS_STACK:-79.6.1}
GATEWAY_API=${GATEWAY_API:-v1.4.0}
ISTIO=${ISTIO:-1.28.0}

run() {
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# chart NAME REPOSITORY VERSION NAMESPACE [MORE…]
chart() {
  local name=$1 repository=$2 version=$3 namespace=$4
  shift 4
  run helm upgrade --install "$name" "$name" --repo "$repository" --version "$version" \
    --namespace "$namespace" --create-namespace --wait --timeout 15m "$@"
}

kuberay() {
  # The gate lets an upgrade shift traffic in steps (upgrade.strategy).
  chart kuberay-operator https://ray-project.github.io/kuberay-helm "$KUBERAY" kuberay-system \
    --set-json 'featureGates=[{"name":"RayClusterStatusConditions","enabled":true},{"name":"RayServiceIncrementalUpgrade","enabled":true}]'
}

gpu() {
  # Drivers, device plugin, and the node labels that tell what a GPU-second costs.
  chart gpu-operator https://helm.ngc.nvidia.com/nvidia "$GPU_OPERATOR" gpu-operator \
    --set mig.strategy=mixed
}

cert_manager() {
  chart cert-manager https://charts.jetstack.io "$CERT_MANAGER" cert-manager --set crds.enabled=true
}

milvus() {
  chart milvus-operator https://zilliztech.github.io/milvus-operator "$MILVUS_OPERATOR" milvus-operator
}

monitoring() {
  # Every PodMonitor and rule counts, whatever its labels; the Ray dashboard may embed Grafana.
  chart kube-prometheus-stack https://prometheus-community.github.io/helm-charts "$PROMETHEUS_STACK" monitoring \
    --set prometheus.prometheusSpec.podMonitorSelectorNilUsesHelmValues=false \
    --set prometheus.prometheusSpec.ruleSelectorNilUsesHelmValues=false \
    --set-string 'grafana.grafana\.ini.security.allow_embedding=true' \
    --set grafana.sidecar.dashboards.searchNamespace=ALL
}

gateway() {
  run kubectl apply --server-side -f \
    "https://github.com/kubernetes-sigs/gateway-api/releases/download/$GATEWAY_API/standard-install.yaml"
  local charts=https://istio-release.storage.googleapis.com/charts
  chart base "$charts" "$ISTIO" istio-system
  chart istiod "$charts" "$ISTIO" istio-system
}

if [[ ${1:-} == --dry-run ]]; then
  DRY_RUN=yes
  shift
fi
if [[ $# -eq 0 ]]; then
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
  exit 2
fi
for part in "$@"; do
  case $part in
    kuberay | gpu | milvus | monitoring | gateway) "$part" ;;
    cert-manager) cert_manager ;;
    *)
      echo "there is no $part: kuberay, gpu, cert-manager, milvus, monitoring, gateway" >&2
      exit 2
      ;;
  esac
done
