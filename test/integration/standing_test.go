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

package integration

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server"
)

// shortLease has the controllers end soon after the kube-apiserver has gone away.
var shortLease = server.LeaseTimes{Duration: 4 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: time.Second}

// serverBefore is a whole server in front of a kube-apiserver that comes and goes, and the server's own client of it: nobody
// else is known to a server whose kube-apiserver is away.
func serverBefore(t *testing.T, host *awayHost) *fixture {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["host"] = &clientcmdapi.Cluster{Server: "http://" + host.address}
	config.Contexts["host"], config.CurrentContext = &clientcmdapi.Context{Cluster: "host"}, "host"
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, kubeconfig); err != nil {
		t.Fatal(err)
	}
	f := ownServer(t, func(o *server.Options) {
		o.Standalone = nil
		o.Namespace = "sandbox-system"
		o.ServingCertSecret = ""
		o.LeaderElection = shortLease
		o.Recommended.CoreAPI.CoreAPIKubeconfigPath = kubeconfig
	})
	f.sandboxes = f.controller.Sandboxes("default")
	return f
}

// testAuthority is a certificate in PEM.
func testAuthority(t *testing.T) string {
	t.Helper()
	certificate, _, err := certutil.GenerateSelfSignedCertKey("front-proxy-ca", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(certificate)
}

// raw asks for something that is no object.
func (f *fixture) raw(path string) (int, string) {
	f.Helper()
	client, err := kubernetes.NewForConfig(f.running.server.Loopback())
	f.must(err)
	var code int
	body, err := client.RESTClient().Get().AbsPath(path).Do(context.Background()).StatusCode(&code).Raw()
	if len(body) == 0 && err != nil {
		return code, err.Error()
	}
	return code, string(body)
}

func (f *fixture) awaitReady() {
	f.Helper()
	f.eventually(func() error {
		code, body := f.raw("/readyz")
		if code != 200 {
			return errors.New(body)
		}
		return nil
	})
}

// awaitPod waits until the controllers have made a sandbox's Pod: they run.
func (h *awayHost) awaitPod(f *fixture, name string) {
	f.Helper()
	f.eventually(func() error {
		h.mutex.Lock()
		defer h.mutex.Unlock()
		if !slices.Contains(h.created, "/api/v1/namespaces/default/pods/"+name) {
			return fmt.Errorf("nobody made Pod %s; created was %q", name, h.created)
		}
		return nil
	})
}

func TestAServerStartsBeforeItsKubeApiserver(t *testing.T) {
	host := newAwayHost(t)
	f := serverBefore(t, host)

	if code, body := f.raw("/livez"); code != 200 {
		t.Errorf("it would be started again and again: /livez answers %d %s", code, body)
	}
	code, body := f.raw("/readyz")
	if code == 200 {
		t.Error("it says that it is ready")
	}
	for _, check := range []string{"kube-apiserver", "authentication-configuration", "store-identity", "informer-sync"} {
		if !strings.Contains(body, "[-]"+check+" failed") {
			t.Errorf("readiness does not say that it waits for %s:\n%s", check, body)
		}
	}
	_, err := f.sandboxes.List(context.Background(), metav1.ListOptions{})
	if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "kube-apiserver") {
		t.Errorf("a request is answered with %v, want 503 and why", err)
	}

	host.arrive()
	f.awaitReady()
	f.create(sandbox("early"))
	host.awaitPod(f, "early")
}

// TestAServerStartsBesideAKubeApiserverThatHangs: between a server and its kube-apiserver lies a network, which may drop
// what it is given. https://github.com/kubernetes/kubernetes/issues/106060
func TestAServerStartsBesideAKubeApiserverThatHangs(t *testing.T) {
	host := newAwayHost(t)
	endHang := host.hang()
	f := serverBefore(t, host)
	if code, body := f.raw("/livez"); code != 200 {
		t.Errorf("it would be started again and again: /livez answers %d %s", code, body)
	}
	if code, body := f.raw("/readyz"); code == 200 || !strings.Contains(body, "[-]kube-apiserver failed") {
		t.Errorf("readiness is %d and does not say that it waits for kube-apiserver:\n%s", code, body)
	}
	endHang()
	host.arrive()
	f.awaitReady()
}

func TestAServerThatWaitsForItsKubeApiserverEndsWhenItIsTold(t *testing.T) {
	host := newAwayHost(t)
	endHang := host.hang()
	defer endHang()
	f := serverBefore(t, host)
	began := time.Now()
	f.running.cancel()
	select {
	case err := <-f.running.ended:
		f.running.ended <- err // for the end of the test
		if err != nil {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("30 s after it was told to end it still waits")
	}
	t.Logf("it took %s to end", time.Since(began))
}

func TestALostKubeApiserverEndsTheControllersAndNotTheAPI(t *testing.T) {
	host := newAwayHost(t)
	host.arrive()
	f := serverBefore(t, host)
	f.awaitReady()
	f.create(sandbox("before"))
	host.awaitPod(f, "before")
	watcher, err := f.sandboxes.Watch(context.Background(), metav1.ListOptions{})
	f.must(err)
	defer watcher.Stop()

	host.leave()
	// Longer than the lease: the controllers have ended.
	for end := time.Now().Add(2 * shortLease.Duration); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if code, body := f.raw("/livez"); code != 200 {
			t.Fatalf("while the kube-apiserver is away /livez answers %d %s", code, body)
		}
		if _, err := f.sandboxes.List(context.Background(), metav1.ListOptions{}); err != nil {
			t.Fatalf("while the kube-apiserver is away a list is answered with %v", err)
		}
	}
	if code, body := f.raw("/readyz"); code != 200 {
		t.Errorf("without a kube-apiserver it takes itself out of service:\n%s", body)
	}
	f.create(sandbox("meanwhile"))
	awaitEvent(f, watcher, "meanwhile")

	host.arrive()
	host.awaitPod(f, "meanwhile")
	f.must(f.sandboxes.Delete(context.Background(), "before", metav1.DeleteOptions{}))
	awaitEvent(f, watcher, "before") // the watch is the same
}

// awaitEvent reads a watch until it tells of a sandbox.
func awaitEvent(f *fixture, watcher watch.Interface, name string) {
	f.Helper()
	timeout := time.After(deadline)
	for {
		select {
		case event, open := <-watcher.ResultChan():
			if !open {
				f.Fatal("the watch has been cut")
			}
			if s, ok := event.Object.(*v1alpha1.Sandbox); ok && s.Name == name {
				return
			}
		case <-timeout:
			f.Fatalf("the watch has not told of %s", name)
		}
	}
}

func TestAServerIsReadyOnAKubernetesWithoutMutatingPolicies(t *testing.T) {
	host := newAwayHost(t)
	host.serves = []string{"validatingadmissionpolicies", "validatingadmissionpolicybindings"}
	host.arrive()
	f := serverBefore(t, host)
	f.awaitReady()
	f.create(sandbox("admitted"))
	host.awaitPod(f, "admitted")
}
