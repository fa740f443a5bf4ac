//go:build e2e

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

package e2e

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	lifecycle "github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
)

// What the local cluster and the deployment call things.
const (
	systemNamespace = "sandbox-system"
	serverName      = "sandbox-apiserver"
	serverPod       = "sandbox-apiserver-0"
	// busybox is on the node already. Its tag is not "latest", so it is never pulled.
	busybox = "docker.io/library/busybox:local"
)

// The server, as roles name it and as the API calls it.
const serverUser = "system:serviceaccount:" + systemNamespace + ":" + serverName

var serverSubject = rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: systemNamespace, Name: serverName}

// cluster is the way to everything there is: the API, the node's containerd, the registries.
type cluster struct {
	config     *rest.Config
	kube       kubernetes.Interface
	lifecycle  lifecycle.Interface
	containerd *containerd.Client

	kubeconfig, kubectl string
	registry            string
	auth                authRegistry
}

// authRegistry is the registry that wants credentials.
type authRegistry struct {
	host, username, password string
}

var connect = sync.OnceValues(func() (*cluster, error) {
	settings := map[string]string{}
	for _, name := range []string{
		"KUBECONFIG", "KUBECTL", "CONTAINERD_ADDRESS", "REGISTRY", "REGISTRY_AUTH", "REGISTRY_AUTH_USERNAME", "REGISTRY_AUTH_PASSWORD_FILE",
	} {
		if settings[name] = os.Getenv(name); settings[name] == "" {
			return nil, fmt.Errorf("%s is not set: these tests need the local cluster and the server in it; run them with `make e2e`, or read the package comment in doc.go", name)
		}
	}
	password, err := os.ReadFile(settings["REGISTRY_AUTH_PASSWORD_FILE"])
	if err != nil {
		return nil, fmt.Errorf("read the password of the registry that wants one: %w", err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", settings["KUBECONFIG"])
	if err != nil {
		return nil, fmt.Errorf("KUBECONFIG: %w", err)
	}
	config.QPS, config.Burst = 200, 400
	config.UserAgent = "sandbox-e2e"
	c := &cluster{
		config:     config,
		kubeconfig: settings["KUBECONFIG"],
		kubectl:    settings["KUBECTL"],
		registry:   settings["REGISTRY"],
		auth:       authRegistry{settings["REGISTRY_AUTH"], settings["REGISTRY_AUTH_USERNAME"], strings.TrimSpace(string(password))},
	}
	if c.kube, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if c.lifecycle, err = lifecycle.NewForConfig(config); err != nil {
		return nil, err
	}
	address := strings.TrimPrefix(settings["CONTAINERD_ADDRESS"], "unix://")
	if c.containerd, err = containerd.New(address, containerd.WithDefaultNamespace("k8s.io")); err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	return c, nil
})

// theCluster connects once for all tests.
func theCluster(t *testing.T) *cluster {
	t.Helper()
	c, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// as is the same cluster for another user, whom kube-apiserver lets us impersonate.
func (c *cluster) as(t *testing.T, user string) lifecycle.Interface {
	t.Helper()
	config := rest.CopyConfig(c.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:authenticated"}}
	client, err := lifecycle.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// warned is a client that remembers the Warning headers of the answers to it.
func (c *cluster) warned(t *testing.T) (lifecycle.Interface, *warnings) {
	t.Helper()
	heard := &warnings{}
	config := rest.CopyConfig(c.config)
	config.WarningHandler = heard
	client, err := lifecycle.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client, heard
}

type warnings struct {
	mutex sync.Mutex
	texts []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.texts = append(w.texts, text)
}

// take returns what was heard since the last call.
func (w *warnings) take() string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	texts := strings.Join(w.texts, "\n")
	w.texts = nil
	return texts
}
