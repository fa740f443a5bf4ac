/*
Copyright The Sandbox API Server Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

type object = map[string]any

// writeConfig renders every configuration file of a new cluster.
func writeConfig(l layout, resolvConf, runc string) error {
	password, hash, err := newPassword()
	if err != nil {
		return err
	}
	files := map[string]string{
		l.config("registry.json"):                         render(registryConfig(registryOpen, l.path("registry", "open"), "")),
		l.config("registry-auth.json"):                    render(registryConfig(registryAuth, l.path("registry", "auth"), l.config("htpasswd"))),
		l.config("hosts/" + registryOpen + "/hosts.toml"): hostsConfig(registryOpen),
		l.config("hosts/" + registryAuth + "/hosts.toml"): hostsConfig(registryAuth),
		l.path("cluster.env"):                             environment(l),
	}
	for path, content := range files {
		if err := writeFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := writeFile(l.config("htpasswd"), []byte(registryUser+":"+hash+"\n"), 0o600); err != nil {
		return err
	}
	if err := writeFile(l.passwordFile(), []byte(password), 0o600); err != nil {
		return err
	}
	for _, user := range []string{"kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		if err := writeKubeconfig(l, l.config(user+".kubeconfig"), user); err != nil {
			return err
		}
	}
	if err := writeKubeconfig(l, l.kubeconfig(), "admin"); err != nil {
		return err
	}
	return writeNodeConfig(l, firstNode, resolvConf, runc)
}

// writeNodeConfig renders the configuration files of a node's programs.
func writeNodeConfig(l layout, n node, resolvConf, runc string) error {
	for name, content := range map[string]string{
		"containerd.toml":      containerdConfig(l, n, runc),
		"kubelet.json":         render(kubeletConfig(l, n, resolvConf)),
		"kube-proxy.json":      render(proxyConfig(l, n)),
		"cni/10-pods.conflist": render(cniConfig(l, n)),
	} {
		if err := writeFile(n.config(l, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return writeKubeconfig(l, n.config(l, "kubelet.kubeconfig"), n.pki("kubelet"))
}

func containerdConfig(l layout, n node, runc string) string {
	return fmt.Sprintf(`version = 3
root = %[1]q
state = %[2]q
temp = %[3]q
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.snapshotter.v1.blockfile', 'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.devmapper', 'io.containerd.snapshotter.v1.erofs', 'io.containerd.snapshotter.v1.zfs', 'io.containerd.tracing.processor.v1.otlp']

[grpc]
  address = %[4]q

[plugins.'io.containerd.internal.v1.opt']
  path = %[5]q

[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = %[6]q
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = %[7]q

[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE the kernel refuses scores below one's own.
  restrict_oom_score_adj = true
  # So that everything mounted for the cluster lies below its directory.
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    # Without this each Pod would leave a file in /var/lib/cni.
    use_internal_loopback = true
    bin_dirs = [%[8]q]
    conf_dir = %[9]q
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = 'runc'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = %[10]q
        Root = %[11]q
        SystemdCgroup = false
`,
		l.path("containerd", "root"), l.path("containerd", "state"), l.path("containerd", "tmp"), l.containerdSocket(),
		l.path("containerd", "opt"), pauseImage, l.config("hosts"), l.exe("cni"), n.config(l, "cni"), runc,
		l.path("containerd", "runc"))
}

func hostsConfig(registry string) string {
	return fmt.Sprintf("server = \"http://%[1]s\"\n\n[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n", registry)
}

func cniConfig(l layout, n node) object {
	first, last := n.podRange()
	return object{"cniVersion": "1.0.0", "name": networkName, "plugins": []object{{
		"type": "bridge", "bridge": bridgeName, "isGateway": true, "hairpinMode": true,
		// Pods reach the world outside under the host's address.
		"ipMasq": true, "ipMasqBackend": "nftables",
		"ipam": object{
			"type": "host-local", "dataDir": l.path("cni"),
			"ranges": [][]object{{{"subnet": podCIDR, "rangeStart": first, "rangeEnd": last, "gateway": n.ip()}}},
			"routes": []object{{"dst": "0.0.0.0/0"}},
		},
	}}}
}

func kubeletConfig(l layout, n node, resolvConf string) object {
	config := object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + l.containerdSocket(),
		"address":                  host(n.kubeletAPI()), "port": port(n.kubeletAPI()),
		"healthzBindAddress": host(n.kubeletHealth()), "healthzPort": port(n.kubeletHealth()),
		"tlsCertFile": l.pki(n.pki("kubelet-serving") + ".crt"), "tlsPrivateKeyFile": l.pki(n.pki("kubelet-serving") + ".key"),
		"authentication": object{
			"anonymous": object{"enabled": false},
			"webhook":   object{"enabled": true},
			"x509":      object{"clientCAFile": l.pki("ca.crt")},
		},
		"authorization": object{"mode": "Webhook"},
		"resolvConf":    resolvConf,
		// Right for cgroup v1 and v2, with and without systemd.
		"cgroupDriver": "cgroupfs", "failCgroupV1": false, "failSwapOn": false, "enforceNodeAllocatable": []string{},
		// A developer's disk is often nearly full: the cluster neither evicts Pods for it nor deletes imported images.
		"evictionHard": object{}, "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		"serializeImagePulls": false, "registryPullQPS": 0, "eventRecordQPS": 0, "kubeAPIQPS": 50, "kubeAPIBurst": 100,
		"oomScoreAdj": 0, "makeIPTablesUtilChains": false,
		"podLogsDir": l.path("logs", "pods"), "volumePluginDir": l.path("kubelet", "volume-plugins"),
	}
	if n.cgroup() != "" {
		config["cgroupRoot"] = "/" + n.cgroup()
	}
	return config
}

func proxyConfig(l layout, n node) object {
	return object{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"mode": "nftables", "hostnameOverride": n.name(),
		"clientConnection":   object{"kubeconfig": l.config("kube-proxy.kubeconfig")},
		"healthzBindAddress": n.proxyHealth(), "metricsBindAddress": n.proxyMetrics(),
		"nodePortAddresses": []string{"primary"}, "clusterCIDR": podCIDR, "oomScoreAdj": 0,
		// On one bridge an answer from Pod to Pod would go past the host, and so past the address translation.
		"nftables": object{"masqueradeAll": true},
		// Host-wide settings are left alone.
		"conntrack": object{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	}
}

// registryConfig is for distribution's registry; without an htpasswd file anyone may read and write.
func registryConfig(address, root, htpasswd string) object {
	config := object{
		"version": "0.1",
		"log":     object{"level": "info"},
		"storage": object{
			"filesystem": object{"rootdirectory": root},
			"delete":     object{"enabled": true},
		},
		"http": object{"addr": address, "headers": object{"X-Content-Type-Options": []string{"nosniff"}}},
	}
	if htpasswd != "" {
		config["auth"] = object{"htpasswd": object{"realm": "sandbox-local-cluster", "path": htpasswd}}
	}
	return config
}

// environment is the facts about a cluster that scripts need, for a shell to source.
func environment(l layout) string {
	var b strings.Builder
	for _, fact := range [][2]string{
		{"KUBECONFIG", l.kubeconfig()},
		{"KUBECTL", l.exe("kubectl")},
		{"CTR", l.exe("ctr")},
		{"CONTAINERD_ADDRESS", l.containerdSocket()},
		{"CONTAINERD_NAMESPACE", containerdNS},
		{"CONTAINERD_ROOT", l.path("containerd", "root")},
		{"REGISTRY", registryOpen},
		{"REGISTRY_AUTH", registryAuth},
		{"REGISTRY_AUTH_USERNAME", registryUser},
		{"REGISTRY_AUTH_PASSWORD_FILE", l.passwordFile()},
		{"BRIDGE_IP", bridgeIP},
	} {
		fmt.Fprintf(&b, "%s='%s'\n", fact[0], strings.ReplaceAll(fact[1], "'", `'\''`))
	}
	return b.String()
}

func newPassword() (password, hash string, err error) {
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return "", "", err
	}
	password = hex.EncodeToString(random)
	hashed, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost) // 128 random bits need no slow hash
	return password, string(hashed), err
}

// nodeResolvConf is the file that Pods get their name servers from. systemd-resolved's stub address, 127.0.0.53, would
// mean the Pod itself.
func nodeResolvConf() string {
	const upstream = "/run/systemd/resolve/resolv.conf"
	if _, err := os.Stat(upstream); err == nil {
		return upstream
	}
	return "/etc/resolv.conf"
}

func render(o object) string {
	content, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		panic(err) // only literals of this file come here
	}
	return string(content) + "\n"
}
