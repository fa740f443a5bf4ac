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
	"net"
	"os"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server"
)

// systemNamespace is the server's, and that of the commit Jobs.
const systemNamespace = "sandbox-system"

// cluster is a control plane without a node: a kube-apiserver over its etcd, and the sandbox
// server over an etcd of its own, so that what that one counts is the sandboxes' alone.
type cluster struct {
	processes []*process

	kube      kubernetes.Interface
	sandboxes versioned.Interface
	// config reaches the kube-apiserver with all rights and no limits, in JSON.
	config *rest.Config
	// server and store are where the sandbox server and its etcd say what they have done; kube is
	// the same of the kube-apiserver.
	server, store, kubeMetrics *metricsEndpoint
	// storeAddress is the etcd of the sandboxes.
	storeAddress string
	// serverProcess is the sandbox server's, startAgain starts another one as that was.
	serverProcess *process
	startAgain    func(ctx context.Context, name string) error
}

// startCluster starts all of it in a directory and registers the API.
func startCluster(ctx context.Context, o *options, dir, registry string) (_ *cluster, err error) {
	c := &cluster{}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	keys, err := newPKI(filepath.Join(dir, "pki"))
	if err != nil {
		return nil, err
	}
	at, err := freeAddresses(6)
	if err != nil {
		return nil, err
	}
	kubeStore, kubeAPI, serving := at[0], at[2], at[4]
	c.storeAddress = at[3]
	if err := c.startEtcd(ctx, o, dir, "etcd-kubernetes", kubeStore, at[1], "--unsafe-no-fsync"); err != nil {
		return nil, err
	}
	// This one is measured, so it writes to the disk as it should.
	if err := c.startEtcd(ctx, o, dir, "etcd-sandboxes", c.storeAddress, at[5]); err != nil {
		return nil, err
	}
	if err := c.startKubernetes(ctx, o, dir, keys, kubeStore, kubeAPI); err != nil {
		return nil, err
	}
	if err := c.startServer(ctx, o, dir, keys, kubeAPI, serving, registry); err != nil {
		return nil, err
	}
	c.store = &metricsEndpoint{name: "etcd", url: "http://" + c.storeAddress + "/metrics"}
	c.server = &metricsEndpoint{name: "sandbox-apiserver", url: "https://" + serving + "/metrics", token: keys.token}
	c.kubeMetrics = &metricsEndpoint{name: "kube-apiserver", url: "https://" + kubeAPI + "/metrics", token: keys.token}
	return c, nil
}

// stop ends everything, the last started first.
func (c *cluster) stop() {
	for i := len(c.processes) - 1; i >= 0; i-- {
		c.processes[i].stop()
	}
	c.processes = nil
}

// whenOneEnds gives up as soon as one of the programs has ended by itself.
func (c *cluster) whenOneEnds(giveUp context.CancelCauseFunc) {
	for _, p := range c.processes {
		p.whenItEnds(giveUp)
	}
}

// killServer kills the sandbox server and returns when another one answers.
func (c *cluster) killServer(ctx context.Context, giveUp context.CancelCauseFunc) error {
	c.serverProcess.kill()
	if err := c.startAgain(ctx, "sandbox-apiserver-again"); err != nil {
		return err
	}
	c.serverProcess.whenItEnds(giveUp)
	return nil
}

func (c *cluster) start(ctx context.Context, dir, name, exe string, args, env []string, ready func(context.Context) error) error {
	p, err := startProcess(dir, name, exe, args, env)
	if err != nil {
		return err
	}
	c.processes = append(c.processes, p)
	return p.await(ctx, ready)
}

func (c *cluster) startEtcd(ctx context.Context, o *options, dir, name, client, peer string, more ...string) error {
	args := append([]string{
		"--name=" + name, "--data-dir=" + filepath.Join(dir, name),
		"--listen-client-urls=http://" + client, "--advertise-client-urls=http://" + client,
		"--listen-peer-urls=http://" + peer, "--initial-advertise-peer-urls=http://" + peer,
		"--initial-cluster=" + name + "=http://" + peer,
		"--quota-backend-bytes=8589934592", "--log-level=warn",
	}, more...)
	return c.start(ctx, dir, name, filepath.Join(o.bin, "etcd"), args, nil, func(ctx context.Context) error {
		_, err := (&metricsEndpoint{name: name, url: "http://" + client + "/metrics"}).read(ctx)
		return err
	})
}

func (c *cluster) startKubernetes(ctx context.Context, o *options, dir string, keys *pki, store, address string) error {
	c.config = &rest.Config{
		Host: "https://" + address, BearerToken: keys.token,
		TLSClientConfig: rest.TLSClientConfig{CAData: keys.authority},
		QPS:             -1,
		ContentConfig:   rest.ContentConfig{ContentType: runtime.ContentTypeJSON},
	}
	quick := rest.CopyConfig(c.config)
	quick.ContentType = runtime.ContentTypeProtobuf
	quick.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	var err error
	if c.kube, err = kubernetes.NewForConfig(quick); err != nil {
		return err
	}
	if c.sandboxes, err = versioned.NewForConfig(c.config); err != nil {
		return err
	}
	return c.start(ctx, dir, "kube-apiserver", filepath.Join(o.bin, "kube-apiserver"), []string{
		"--etcd-servers=http://" + store,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port=" + port(address),
		"--endpoint-reconciler-type=none",
		"--tls-cert-file=" + keys.file("server.crt"), "--tls-private-key-file=" + keys.file("server.key"),
		"--token-auth-file=" + keys.file("tokens.csv"), "--authorization-mode=RBAC", "--allow-privileged=true",
		"--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + keys.file("service-accounts.key"),
		"--service-account-signing-key-file=" + keys.file("service-accounts.key"),
		"--requestheader-client-ca-file=" + keys.file("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + keys.file("front-proxy.crt"), "--proxy-client-key-file=" + keys.file("front-proxy.key"),
	}, nil, func(ctx context.Context) error {
		_, err := c.kube.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
}

// startServer registers the API and starts the server that serves it, as an installation would but
// for the Pod around it. The APIService finds it by a Service of type ExternalName.
func (c *cluster) startServer(ctx context.Context, o *options, dir string, keys *pki, kube, serving, registry string) error {
	kubeconfig := filepath.Join(dir, "pki", "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		CurrentContext: "bench",
		Contexts:       map[string]*clientcmdapi.Context{"bench": {Cluster: "bench", AuthInfo: "admin"}},
		Clusters:       map[string]*clientcmdapi.Cluster{"bench": {Server: "https://" + kube, CertificateAuthorityData: keys.authority}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"admin": {Token: keys.token}},
	}, kubeconfig); err != nil {
		return err
	}
	if err := c.register(ctx, serving); err != nil {
		return err
	}
	args := append([]string{
		"--bind-address=127.0.0.1", "--secure-port=" + port(serving), "--kubeconfig=" + kubeconfig,
		"--etcd-servers=http://" + c.storeAddress,
		"--snapshot-registry=" + registry + "/bench", "--snapshot-registry-insecure",
		"--image-committer-image=registry.example.com/image-committer:bench",
		"--max-commits=" + strconv.Itoa(o.maxCommits), "--max-commits-per-node=" + strconv.Itoa(o.maxCommitsPerNode),
	}, o.serverArgs...)
	c.startAgain = func(ctx context.Context, name string) error {
		err := c.start(ctx, dir, name, o.server, args, []string{"POD_NAMESPACE=" + systemNamespace, "POD_UID=bench"}, func(ctx context.Context) error {
			// Through the kube-apiserver: then it is registered, trusted and ready.
			_, err := c.sandboxes.LifecycleV1alpha1().Sandboxes(systemNamespace).List(ctx, metav1.ListOptions{})
			return err
		})
		if err == nil {
			c.serverProcess = c.processes[len(c.processes)-1]
		}
		return err
	}
	return c.startAgain(ctx, "sandbox-apiserver")
}

func (c *cluster) register(ctx context.Context, serving string) error {
	core := c.kube.CoreV1()
	_, namespaceErr := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: systemNamespace}}, metav1.CreateOptions{})
	_, accountErr := core.ServiceAccounts(systemNamespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "image-committer"}}, metav1.CreateOptions{})
	_, secretErr := core.Secrets(systemNamespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: server.NewOptions().ServingCertSecret}}, metav1.CreateOptions{})
	_, storeErr := core.ConfigMaps(systemNamespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: server.StoreConfigMapName}}, metav1.CreateOptions{})
	_, serviceErr := core.Services(systemNamespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: server.ServiceName},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}, metav1.CreateOptions{})
	if err := errors.Join(namespaceErr, accountErr, secretErr, storeErr, serviceErr); err != nil {
		return fmt.Errorf("make what the server finds in its namespace: %w", err)
	}
	registrations, err := aggregator.NewForConfig(c.config)
	if err != nil {
		return err
	}
	number, err := strconv.ParseInt(port(serving), 10, 32)
	if err != nil {
		return err
	}
	servicePort := int32(number)
	if _, err := registrations.ApiregistrationV1().APIServices().Create(ctx, &apiregistration.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: server.APIServiceName},
		Spec: apiregistration.APIServiceSpec{
			Group: "lifecycle.opensandbox.io", Version: "v1alpha1", GroupPriorityMinimum: 1000, VersionPriority: 10,
			Service: &apiregistration.ServiceReference{Namespace: systemNamespace, Name: server.ServiceName, Port: &servicePort},
		},
	}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("register the API: %w", err)
	}
	return nil
}

// newDirectory is an empty one for a run; what a former run left there is deleted.
func newDirectory(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return path, errors.Join(os.RemoveAll(path), os.MkdirAll(path, 0o755))
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}
