"""A Kubernetes node: its control plane, container runtime and network, in the namespaces of the caller.

It is to be started in a network, a process and a mount namespace of its own. With them all of it
ends: processes, pods, mounts, addresses, rules of iptables.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

from cluster import ROOT, eventually
from machine import hierarchies
from programs import BIN, PAUSE_ARCHIVE, PAUSE_IMAGE

STATE = ROOT / ".check" / "node"
KUBECONFIG = STATE / "kubeconfig"
SOCKET = STATE / "containerd.sock"
# The directories of containerd and the kubelet, which are deleted with the node.
SCRATCH = ("/run", "/var/log", "/var/lib/cni", "/var/lib/kubelet")
CGROUP = "llamatower-node"

NAME = "node"
# From the address range for network tests (RFC 2544).
ADDRESS, PODS, SERVICES = "198.18.0.1", "198.18.0.0/24", "198.19.0.0/24"
API = "https://127.0.0.1:6443"


def start() -> None:
    for folder in ("log", "pki", "cni"):
        (STATE / folder).mkdir(parents=True, exist_ok=True)
    _make_scratch()
    _make_network()
    _make_certificates()
    _write_kubeconfig()
    _start_control_plane()
    _start_dns()
    _start_containerd()
    load(PAUSE_ARCHIVE)
    _start_kubelet()
    _start_proxy()
    eventually(_is_ready, "the node is ready", 60)
    _make_volume()


def load(archive: Path) -> None:
    """Loads an image, a docker-archive file, into the node."""
    _run("ctr", "-a", SOCKET, "-n", "k8s.io", "images", "import", archive)


def make_cgroup() -> None:
    """A separate cgroup, because another kubelet would treat our pods as its own."""
    for hierarchy in hierarchies():
        (hierarchy / CGROUP).mkdir(exist_ok=True)


def forget() -> None:
    """Removes what does not end with the namespaces: cgroups, and files except logs."""
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / CGROUP, topdown=False):
            eventually(lambda: _is_removed(folder), f"{folder} is empty", 30)
    for path in STATE.glob("*"):
        if path.name != "log":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_removed(cgroup: str) -> bool:
    try:
        os.rmdir(cgroup)
    except OSError:
        return False
    return True


def _make_scratch() -> None:
    for path in SCRATCH:
        Path(path).mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "tmpfs", path)


def _make_network() -> None:
    """A bridge. Its address is the node, its DNS server and the pods' gateway."""
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", "pods", "type", "bridge")
    _run("ip", "address", "add", f"{ADDRESS}/24", "dev", "pods")
    _run("ip", "link", "set", "pods", "up")
    ranges = {"type": "host-local", "ranges": [[{"subnet": PODS, "gateway": ADDRESS}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True, "ipam": ranges}
    _write("cni/pods.conflist", {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]})


def _make_certificates() -> None:
    (STATE / "pki" / "openssl.cnf").write_text("[req]\ndistinguished_name = name\n[name]\n")
    _make_certificate("ca", "/CN=ca", "basicConstraints=critical,CA:TRUE")
    by_ca = ("-CA", "ca.crt", "-CAkey", "ca.key")
    _make_certificate("api", "/CN=kube-apiserver", "subjectAltName=IP:127.0.0.1", *by_ca)
    _make_certificate("admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth", *by_ca)


def _make_certificate(name: str, subject: str, extension: str, *options: str) -> None:
    files = ("-config", "openssl.cnf", "-keyout", f"{name}.key", "-out", f"{name}.crt")
    what = ("-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", subject, "-addext", extension)
    _run("openssl", "req", "-x509", *what, *files, *options, folder=STATE / "pki")


def _write_kubeconfig() -> None:
    pki = STATE / "pki"
    cluster = {"server": API, "certificate-authority": str(pki / "ca.crt")}
    user = {"client-certificate": str(pki / "admin.crt"), "client-key": str(pki / "admin.key")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "node", "cluster": cluster}],
        "users": [{"name": "admin", "user": user}],
        "contexts": [{"name": "node", "context": {"cluster": "node", "user": "admin"}}],
        "current-context": "node",
    }
    _write(KUBECONFIG.name, config)


def _start_control_plane() -> None:
    _start("etcd", "etcd", "--data-dir", STATE / "etcd")
    _start("kube-apiserver", BIN / "kube-apiserver", *_options({
        "etcd-servers": "http://127.0.0.1:2379",
        "bind-address": "127.0.0.1",
        "advertise-address": ADDRESS,
        "endpoint-reconciler-type": "none",
        "service-cluster-ip-range": SERVICES,
        "authorization-mode": "RBAC",
        "client-ca-file": "pki/ca.crt",
        "tls-cert-file": "pki/api.crt",
        "tls-private-key-file": "pki/api.key",
        "kubelet-client-certificate": "pki/admin.crt",
        "kubelet-client-key": "pki/admin.key",
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": API,
        "service-account-key-file": "pki/api.key",
        "service-account-signing-key-file": "pki/api.key",
    }))
    eventually(lambda: _kubectl("get", "--raw", "/readyz") == "ok", "the API server is ready", 120)
    as_admin = {"kubeconfig": KUBECONFIG, "leader-elect": "false"}
    keys = {"service-account-private-key-file": "pki/api.key", "root-ca-file": "pki/ca.crt"}
    _start("kube-controller-manager", BIN / "kube-controller-manager", *_options(as_admin | keys))
    _start("kube-scheduler", BIN / "kube-scheduler", *_options(as_admin))


def _start_dns() -> None:
    (STATE / "Corefile").write_text(f"""\
.:53 {{
  bind {ADDRESS}
  kubernetes cluster.local {{
    kubeconfig {KUBECONFIG}
    ttl 5
  }}
}}
""")
    _start("coredns", BIN / "coredns", "-conf", "Corefile")


def _start_containerd() -> None:
    snapshotter = "overlayfs" if "overlay" in Path("/proc/filesystems").read_text() else "native"
    (STATE / "containerd.toml").write_text(f"""\
version = 2
root = "{STATE}/containerd"
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Root in a container may not be allowed to lower a process's OOM score.
restrict_oom_score_adj = true
cni = {{ bin_dir = "/usr/lib/cni", conf_dir = "{STATE}/cni" }}
containerd = {{ snapshotter = "{snapshotter}" }}
""")
    _start("containerd", "containerd", "--config", "containerd.toml")
    eventually(lambda: _succeeds("ctr", "-a", SOCKET, "version"), "containerd answers", 60)


def _kubelet_settings() -> dict:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"webhook": {"enabled": False}, "x509": {"clientCAFile": "pki/ca.crt"}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "clusterDNS": [ADDRESS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "enforceNodeAllocatable": [],
        # The disk of a test machine may be nearly full; images are not fetched again.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "resolvConf": "",
        "volumePluginDir": str(STATE / "volume-plugins"),
    }


def _start_kubelet() -> None:
    _write("kubelet.json", _kubelet_settings())
    _start("kubelet", BIN / "kubelet", *_options({
        "config": "kubelet.json",
        "kubeconfig": KUBECONFIG,
        "hostname-override": NAME,
        "node-ip": ADDRESS,
        "root-dir": STATE / "kubelet",
        "cert-dir": STATE / "pki",
    }))


def _start_proxy() -> None:
    _write("proxy.json", {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": PODS,
        "hostnameOverride": NAME,
        "clientConnection": {"kubeconfig": str(KUBECONFIG)},
        # Kernel settings of the whole machine stay unchanged.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
    _start("kube-proxy", BIN / "kube-proxy", "--config", "proxy.json")


def _is_ready() -> bool:
    wanted = '{.status.conditions[?(@.type=="Ready")].status}'
    return _kubectl("get", "node", NAME, "-o", f"jsonpath={wanted}") == "True"


def _make_volume() -> None:
    """A volume for one claim. k3s has a storage class for this, `local-path`; its program is not here."""
    (STATE / "volume").mkdir()
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}
    _write("volume.json", {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "volume"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            # Not a hostPath: for this kind the kubelet gives the files to the group of the pod, as k3s' own does.
            "local": {"path": str(STATE / "volume")},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    })
    _run("kubectl", f"--kubeconfig={KUBECONFIG}", "apply", "-f", "volume.json")


def _write(name: str, content: dict) -> None:
    (STATE / name).write_text(json.dumps(content, indent=2))


def _options(options: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def _start(name: str, *command: object) -> None:
    with (STATE / "log" / f"{name}.log").open("wb") as log:
        subprocess.Popen([str(word) for word in command], cwd=STATE, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _run(*command: object, folder: Path = STATE) -> None:
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def _succeeds(*command: object) -> bool:
    return subprocess.run([str(word) for word in command], capture_output=True).returncode == 0


def _kubectl(*arguments: str) -> str:
    command = ["kubectl", f"--kubeconfig={KUBECONFIG}", *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout
