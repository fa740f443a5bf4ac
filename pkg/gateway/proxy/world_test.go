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

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	kubefake "k8s.io/client-go/kubernetes/fake"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned/fake"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
)

const (
	tenant  = "tenant"
	goodKey = "a-key-of-tenant"
	// podIP is of no machine: the world's dialer leads it to programs of the test.
	podIP  = "203.0.113.7"
	nodeIP = "203.0.113.1"
)

// world is a gateway that serves nothing but the proxy, over objects that nobody but the test changes.
type world struct {
	*Proxy
	t         *testing.T
	url       string // of the gateway, without a slash
	kube      *kubefake.Clientset
	lifecycle *fake.Clientset
	clock     *testingclock.FakePassiveClock

	mu       sync.Mutex
	programs map[string]string // address in the sandbox → where the test listens
	dialled  []string
	allowed  func(authorizer.Attributes) (bool, error)
	asked    []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, kube: kubefake.NewClientset(), lifecycle: fake.NewSimpleClientset(), programs: map[string]string{},
		clock: testingclock.NewFakePassiveClock(time.Now())}
	var err error
	w.Proxy, err = New(Config{
		Kube: w.kube, Lifecycle: w.lifecycle, Authorizer: w, Clock: w.clock, Dial: w.dial,
		Authenticate: authenticate,
		KeyNamespace: "sandbox-system", KeyName: "lifecycle-gateway-route-key",
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	w.eventually("the caches are there, and the key", func() error {
		_, err := w.key.get()
		return errors.Join(w.Ready(), err)
	})
	server := httptest.NewUnstartedServer(withRequestID(w.Before(http.NotFoundHandler())))
	server.Config.ConnContext = ConnContext
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	w.url = server.URL
	return w
}

func withRequestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "the-gateways")
		next.ServeHTTP(w, r)
	})
}

func authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(identity.HeaderKey) != goodKey {
			answer.Write(w, r, answer.Errorf(http.StatusUnauthorized, answer.CodeMissingKey, "no key"))
			return
		}
		next.ServeHTTP(w, r.WithContext(identity.With(r.Context(),
			&identity.Caller{User: &user.DefaultInfo{Name: "tenant-user", Groups: []string{"tenants"}}, Namespace: tenant})))
	})
}

// Authorize implements authorizer.Authorizer.
func (w *world) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, fmt.Sprintf("%s %s %s/%s %s/%s", a.GetUser().GetName(), a.GetVerb(), a.GetResource(), a.GetSubresource(), a.GetNamespace(), a.GetName()))
	if w.allowed == nil {
		return authorizer.DecisionAllow, "", nil
	}
	may, err := w.allowed(a)
	if may {
		return authorizer.DecisionAllow, "", err
	}
	return authorizer.DecisionNoOpinion, "", err
}

func (w *world) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(w.Authorize(ctx, a))
}

func (w *world) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

func (w *world) allow(allowed func(authorizer.Attributes) (bool, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.allowed = allowed
}

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialled = append(w.dialled, address)
	to := w.programs[address]
	w.mu.Unlock()
	if to == "" {
		to = "127.0.0.1:1" // refused
	}
	return (&net.Dialer{}).DialContext(ctx, network, to)
}

// listens has a port of the Pod at podIP be a program of the test.
func (w *world) listens(port int, address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.programs[net.JoinHostPort(podIP, strconv.Itoa(port))] = address
}

// serves has port 8080 of the sandbox answer with a handler.
func (w *world) serves(handler http.HandlerFunc) *httptest.Server {
	server := httptest.NewServer(handler)
	w.t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	w.listens(8080, server.Listener.Addr().String())
	return server
}

// speaks has port 8080 of the sandbox be spoken to by a function, one for each connection.
func (w *world) speaks(speak func(*net.TCPConn)) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				speak(connection.(*net.TCPConn))
			}()
		}
	}()
	w.listens(8080, listener.Addr().String())
}

// sandbox makes a sandbox that runs, and its Pod, after they were changed.
func (w *world) sandbox(name string, change func(*v1alpha1.Sandbox, *corev1.Pod)) *v1alpha1.Sandbox {
	w.t.Helper()
	sandbox := aSandbox(name)
	pod := podFor(sandbox)
	if change != nil {
		change(sandbox, pod)
	}
	ctx := context.Background()
	if pod.Name != "" {
		if _, err := w.kube.CoreV1().Pods(tenant).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		w.eventually("the Pod is in the cache", func() error { return unless(w.cluster.podByUID(pod.UID) != nil, "it is not") })
	}
	if _, err := w.lifecycle.LifecycleV1alpha1().Sandboxes(tenant).Create(ctx, sandbox, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("the sandbox is in the cache", func() error { return unless(w.cluster.known(tenant, name) != nil, "it is not") })
	return sandbox
}

func aSandbox(name string) *v1alpha1.Sandbox {
	return &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name, UID: types.UID("uid-of-" + name)},
		Status:     v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxRunning, PodName: name, PodUID: types.UID("uid-of-pod-of-" + name)},
	}
}

func podFor(sandbox *v1alpha1.Sandbox) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: sandbox.Name, UID: sandbox.Status.PodUID,
			Labels: map[string]string{v1alpha1.LabelSandbox: sandbox.Name, v1alpha1.LabelSandboxUID: string(sandbox.UID)}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: podIP, HostIP: nodeIP, HostIPs: []corev1.HostIP{{IP: nodeIP}}},
	}
}

// set changes a sandbox's status, and waits until the proxy knows.
func (w *world) set(sandbox *v1alpha1.Sandbox, change func(*v1alpha1.SandboxStatus)) {
	w.t.Helper()
	now := sandbox.DeepCopy()
	change(&now.Status)
	if _, err := w.lifecycle.LifecycleV1alpha1().Sandboxes(tenant).Update(context.Background(), now, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("the change is in the cache", func() error {
		known := w.cluster.known(tenant, sandbox.Name)
		return unless(known.Status.Phase == now.Status.Phase && known.Status.PodUID == now.Status.PodUID, "it is not")
	})
}

// request is one for port 8080 of the sandbox demo, with the key.
func (w *world) request(method, path string, body string) *http.Request {
	w.t.Helper()
	r, err := http.NewRequest(method, w.url+"/v1/sandboxes/demo/proxy/8080"+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if body != "" {
		r, _ = http.NewRequest(method, r.URL.String(), strings.NewReader(body))
	}
	r.Header.Set(identity.HeaderKey, goodKey)
	return r
}

// raw is a connection to the gateway.
func (w *world) raw() *net.TCPConn {
	w.t.Helper()
	u, _ := url.Parse(w.url)
	connection, err := net.Dial("tcp", u.Host)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { connection.Close() })
	_ = connection.SetDeadline(time.Now().Add(30 * time.Second))
	return connection.(*net.TCPConn)
}

// head is the beginning of a request on such a connection.
func (w *world) head(method, path string, headers ...string) string {
	u, _ := url.Parse(w.url)
	lines := append([]string{fmt.Sprintf("%s /v1/sandboxes/demo/proxy/8080%s HTTP/1.1", method, path), "Host: " + u.Host, identity.HeaderKey + ": " + goodKey}, headers...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

func (w *world) eventually(what string, check func() error) {
	w.t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	w.t.Fatalf("not seen within 30 s: %s: %v", what, err)
}

func unless(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}
