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
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// component is one long-running program of a node.
type component struct {
	name  string
	exe   string
	args  []string
	ready func(context.Context) error
	// kept is one that is started again when it has ended.
	kept bool
	// node is in whose namespaces it runs; zero: in the machine's.
	node node
	// apart: it begins namespaces of its own.
	apart bool
}

// command is what to start it with.
func (c component) command(l layout) (exe string, args []string, err error) {
	if c.kept {
		return keeping(c.exe, c.args)
	}
	if c.node <= firstNode {
		return c.exe, c.args, nil
	}
	running, err := recorded(l)
	if err != nil {
		return "", nil, err
	}
	holder := running[c.node.component("node")]
	if !holder.alive() {
		return "", nil, fmt.Errorf("the namespaces of %s have ended", c.node.name())
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return "", nil, err
	}
	// It becomes the program, and so has the PID that is recorded.
	return nsenter, append([]string{"--target", strconv.Itoa(holder.PID), "--mount", "--net", "--", c.exe}, c.args...), nil
}

func containerd(l layout, n node) component {
	return component{
		name: n.component("containerd"), exe: l.exe("containerd"), node: n, ready: containerdReady(l, n),
		args: []string{"--config", n.config(l, "containerd.toml"), "--log-level", "info"},
	}
}

func kubelet(l layout, n node) component {
	return component{
		name: n.component("kubelet"), exe: l.exe("kubelet"), node: n, ready: answers(l, "http://"+n.kubeletHealth()+"/healthz"),
		args: []string{
			"--config=" + n.config(l, "kubelet.json"), "--kubeconfig=" + n.config(l, "kubelet.kubeconfig"),
			"--root-dir=" + l.path("kubelet"), "--hostname-override=" + n.name(), "--node-ip=" + n.ip(),
		},
	}
}

func kubeProxy(l layout, n node) component {
	return component{
		name: n.component("kube-proxy"), exe: l.exe("kube-proxy"), node: n, ready: answers(l, "http://"+n.proxyHealth()+"/healthz"),
		args: []string{"--config=" + n.config(l, "kube-proxy.json")},
	}
}

// stages lists the components of the cluster and its first node in the order of their start; those of one stage start
// together.
func stages(l layout) [][]component {
	kubernetes := func(name, health string, args ...string) component {
		return component{name: name, exe: l.exe(name), args: args, ready: answers(l, health)}
	}
	kept := func(c component) component { c.kept = true; return c }
	registry := func(name, address string, want int) component {
		return component{
			name: name, exe: l.exe("registry"), args: []string{"serve", l.config(name + ".json")},
			ready: answersWith(l, "http://"+address+"/v2/", want),
		}
	}
	return [][]component{
		{
			{
				name: "etcd", exe: l.exe("etcd"), ready: answers(l, "http://"+etcdClient+"/readyz"),
				args: []string{
					"--name=" + nodeName, "--data-dir=" + l.path("etcd"),
					"--listen-client-urls=http://" + etcdClient, "--advertise-client-urls=http://" + etcdClient,
					"--listen-peer-urls=http://" + etcdPeer, "--initial-advertise-peer-urls=http://" + etcdPeer,
					"--initial-cluster=" + nodeName + "=http://" + etcdPeer,
					"--unsafe-no-fsync", // nothing in here is worth a disk's patience
					"--log-level=warn",
				},
			},
			containerd(l, firstNode),
			registry("registry", registryOpen, http.StatusOK),
			registry("registry-auth", registryAuth, http.StatusUnauthorized),
		},
		{
			kubernetes("kube-apiserver", "https://"+apiServer+"/readyz",
				"--etcd-servers=http://"+etcdClient,
				"--bind-address=0.0.0.0", fmt.Sprintf("--secure-port=%d", port(apiServer)), "--advertise-address="+bridgeIP,
				"--tls-cert-file="+l.pki("kube-apiserver.crt"), "--tls-private-key-file="+l.pki("kube-apiserver.key"),
				"--client-ca-file="+l.pki("ca.crt"),
				"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
				"--service-cluster-ip-range="+serviceCIDR,
				"--service-account-issuer=https://kubernetes.default.svc",
				"--service-account-key-file="+l.pki("service-account.key"),
				"--service-account-signing-key-file="+l.pki("service-account.key"),
				"--kubelet-certificate-authority="+l.pki("ca.crt"),
				"--kubelet-client-certificate="+l.pki("kubelet-client.crt"), "--kubelet-client-key="+l.pki("kubelet-client.key"),
				"--kubelet-preferred-address-types=InternalIP",
				"--enable-aggregator-routing=true",
				"--requestheader-client-ca-file="+l.pki("front-proxy-ca.crt"),
				"--requestheader-allowed-names=front-proxy-client",
				"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
				"--requestheader-extra-headers-prefix=X-Remote-Extra-",
				"--proxy-client-cert-file="+l.pki("front-proxy-client.crt"),
				"--proxy-client-key-file="+l.pki("front-proxy-client.key"),
				"--profiling=false",
			),
		},
		{
			kept(kubernetes("kube-controller-manager", "https://"+controllerManager+"/healthz",
				"--kubeconfig="+l.config("kube-controller-manager.kubeconfig"),
				"--authentication-kubeconfig="+l.config("kube-controller-manager.kubeconfig"),
				"--authorization-kubeconfig="+l.config("kube-controller-manager.kubeconfig"),
				"--bind-address="+host(controllerManager), fmt.Sprintf("--secure-port=%d", port(controllerManager)),
				"--tls-cert-file="+l.pki("loopback.crt"), "--tls-private-key-file="+l.pki("loopback.key"),
				"--root-ca-file="+l.pki("ca.crt"),
				"--cluster-signing-cert-file="+l.pki("ca.crt"), "--cluster-signing-key-file="+l.pki("ca.key"),
				"--service-account-private-key-file="+l.pki("service-account.key"),
				"--use-service-account-credentials=true", "--leader-elect=false", "--profiling=false",
			)),
			kept(kubernetes("kube-scheduler", "https://"+scheduler+"/healthz",
				"--kubeconfig="+l.config("kube-scheduler.kubeconfig"),
				"--authentication-kubeconfig="+l.config("kube-scheduler.kubeconfig"),
				"--authorization-kubeconfig="+l.config("kube-scheduler.kubeconfig"),
				"--bind-address="+host(scheduler), fmt.Sprintf("--secure-port=%d", port(scheduler)),
				"--tls-cert-file="+l.pki("loopback.crt"), "--tls-private-key-file="+l.pki("loopback.key"),
				"--leader-elect=false", "--profiling=false",
			)),
			kubelet(l, firstNode),
			kubeProxy(l, firstNode),
		},
	}
}

// componentEnv is all that a component sees of the caller's environment: no credentials of the person at the keyboard.
func componentEnv() []string {
	env := []string{
		"HOME=/root", "OTEL_TRACES_EXPORTER=none",
		"PATH=" + os.Getenv("PATH") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	// Pulls from the world outside may need a proxy, what is inside must go past it.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		if value := os.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	direct := "localhost,127.0.0.1," + podCIDR + "," + serviceCIDR + ",.svc"
	if others := os.Getenv("NO_PROXY"); others != "" {
		direct += "," + others
	}
	return append(env, "NO_PROXY="+direct, "no_proxy="+direct)
}

// answers checks a health endpoint with the admin's certificate.
func answers(l layout, url string) func(context.Context) error {
	return answersWith(l, url, http.StatusOK)
}

func answersWith(l layout, url string, want int) func(context.Context) error {
	return func(ctx context.Context) error {
		kube, err := newKubeAPI(l)
		if err != nil {
			return err
		}
		defer kube.http.CloseIdleConnections()
		kube.http.Timeout = 3 * time.Second
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := kube.http.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(response.Body, 2000))
		if response.StatusCode != want {
			return fmt.Errorf("GET %s: %s: %s", url, response.Status, body)
		}
		return nil
	}
}

func containerdReady(l layout, n node) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return ctr(ctx, l, n, "version")
	}
}

// ctr runs containerd's own client against a node's containerd.
func ctr(ctx context.Context, l layout, n node, args ...string) error {
	cmd := exec.CommandContext(ctx, l.exe("ctr"), append([]string{"--address", n.socket(l), "--namespace", containerdNS}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ctr %s: %w: %s", args[0], err, out)
	}
	return nil
}

// waitReady polls a started component; one that has ended is not waited for.
func waitReady(ctx context.Context, l layout, c component, p process, timeout time.Duration) error {
	err := poll(ctx, timeout, 100*time.Millisecond, func() error {
		if !p.alive() {
			return permanentError{errors.New("it has ended")}
		}
		return c.ready(ctx)
	})
	if errors.Is(err, errInterrupted) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%s did not become ready in %s: %w\nthe end of %s:\n%s", c.name, timeout, err, l.log(c.name), lastLines(l.log(c.name), 15))
	}
	return nil
}
