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
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	httpgateway "github.com/opensandbox-io/sandbox-apiserver/pkg/gateway"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/contract"
)

// Where the gateway finds its keys.
const (
	keysNamespace = "sandbox-system"
	keysName      = "lifecycle-gateway-keys"
)

// gatewayFixture is a test's own namespace, and a gateway that leads there, over the real server. What the controllers would do the
// test writes into the status.
type gatewayFixture struct {
	*fixture
	host *aggregating
	// url is where the gateway serves, and key that of the namespace's tenant.
	url, key string
}

// newGateway starts a gateway before a kube-apiserver that has our server behind it. Changes are made to its settings.
func newGateway(t *testing.T, changes ...func(*httpgateway.Config)) *gatewayFixture {
	t.Helper()
	f := newFixture(t)
	g := &gatewayFixture{fixture: f, host: newAggregating(t, shared), key: "the key of " + f.namespace}
	g.setKeys(map[string]string{"tenant": keyOf(g.key, tenants+f.namespace, f.namespace)})

	return g.replica(changes...)
}

// replica is another gateway, for the same kube-apiserver.
func (g *gatewayFixture) replica(changes ...func(*httpgateway.Config)) *gatewayFixture {
	f, t := g.fixture, g.T
	t.Helper()
	inner := *g
	g = &inner
	config, err := httpgateway.NewOptions().ConfigFor(g.host.as(gateway))
	f.must(err)
	config.MetricsListen, config.ShutdownDelay, config.ShutdownGrace = "", 0, time.Second
	for _, change := range changes {
		change(&config)
	}
	server, err := httpgateway.New(config)
	f.must(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	f.must(err)
	g.url = "http://" + listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the gateway ended: %v", err)
			}
		case <-time.After(deadline):
			t.Error("the gateway does not end")
		}
	})
	f.eventually(func() error {
		select {
		case err := <-ended:
			ended <- err
			f.Fatalf("the gateway ended while it started: %v", err)
		default:
		}
		if got := g.call(http.MethodGet, "/readyz", "", ""); got.code != http.StatusOK {
			return fmt.Errorf("the gateway is not ready: %d %s", got.code, got.body)
		}
		return nil
	})
	return g
}

// within is the fixture of a subtest.
func (g *gatewayFixture) within(t *testing.T) *gatewayFixture {
	inner := *g
	inner.fixture = g.fixture.within(t)
	return &inner
}

// keyOf is the entry of a key that stands for a user in a namespace.
func keyOf(key, user, namespace string) string {
	sum := sha256.Sum256([]byte(key))
	return fmt.Sprintf(`{"sha256":%q,"user":%q,"groups":["tenants"],"namespace":%q}`, hex.EncodeToString(sum[:]), user, namespace)
}

// setKeys writes the Secret of the keys.
func (g *gatewayFixture) setKeys(entries map[string]string) {
	g.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: keysNamespace, Name: keysName}, Data: map[string][]byte{}}
	for name, entry := range entries {
		secret.Data[name] = []byte(entry)
	}
	g.host.put(g.T, "secrets", secret)
}

// call sends a request with a key; none where it is empty.
func (g *gatewayFixture) call(method, path, key, body string) answer {
	g.Helper()
	header := http.Header{}
	if key != "" {
		header.Set("OPEN-SANDBOX-API-KEY", key)
	}
	if body != "" {
		header.Set("Content-Type", asJSON)
	}
	return g.callWith(method, path, header, body)
}

// callWith sends a request. Whatever comes back is checked against the document.
func (g *gatewayFixture) callWith(method, path string, header http.Header, body string) answer {
	g.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, g.url+path, content)
	g.must(err)
	request.Header = header
	response, err := contract.Transport(g.T, nil).RoundTrip(request)
	g.must(err)
	defer func() { _ = response.Body.Close() }()
	read, err := io.ReadAll(response.Body)
	g.must(err)
	return answer{code: response.StatusCode, header: response.Header, body: read}
}

// refusal is what an answer that is no 2xx says.
func (g *gatewayFixture) refusal(got answer) (code, message string) {
	g.Helper()
	var fields map[string]any
	if err := json.Unmarshal(got.body, &fields); err != nil || len(fields) != 2 {
		g.Fatalf("%d %.1000s is not {code, message}: %v", got.code, got.body, err)
	}
	code, _ = fields["code"].(string)
	message, _ = fields["message"].(string)
	if code == "" || message == "" || ofGo.MatchString(message) {
		g.Errorf("%d %.1000s has no code, or no message for a person", got.code, got.body)
	}
	return code, message
}

// is checks an answer's status, and its code where it is a refusal.
func (g *gatewayFixture) is(got answer, status int, code string, says ...string) answer {
	g.Helper()
	if got.code != status {
		g.Fatalf("got %d %.1000s, want %d %s", got.code, got.body, status, code)
	}
	if status < 300 {
		return got
	}
	is, message := g.refusal(got)
	if is != code {
		g.Errorf("got %d %s, want code %s", got.code, got.body, code)
	}
	for _, word := range says {
		if !strings.Contains(message, word) {
			g.Errorf("the message does not say %q: %s", word, message)
		}
	}
	return got
}

// asks sends a request as the namespace's tenant.
func (g *gatewayFixture) asks(method, path, body string) answer {
	g.Helper()
	return g.call(method, path, g.key, body)
}

// asCommitted does what the controller does once a snapshot is made.
func (g *gatewayFixture) asCommitted(name string, change func(*v1alpha1.SandboxSnapshotStatus)) *v1alpha1.SandboxSnapshot {
	g.Helper()
	snapshots := g.controller.SandboxSnapshots(g.namespace)
	s, err := snapshots.Get(context.Background(), name, metav1.GetOptions{})
	g.must(err)
	change(&s.Status)
	s, err = snapshots.UpdateStatus(context.Background(), s, metav1.UpdateOptions{})
	g.must(err)
	return s
}

// succeed is a status of a snapshot that can be started from.
func succeed(status *v1alpha1.SandboxSnapshotStatus) {
	now := metav1.Now()
	status.Phase = v1alpha1.SnapshotSucceed
	status.CompletionTime = &now
	status.Containers = []v1alpha1.ContainerSnapshot{{
		ContainerName: "sandbox", ImageURI: "registry:5000/ns/demo-sandbox:snap-a", ImageDigest: "sha256:" + strings.Repeat("a", 64), LayerBytes: 3000, Layers: 1,
	}}
	status.Conditions = []metav1.Condition{{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonSucceeded, Message: "1 container is in the registry", LastTransitionTime: now,
	}}
}
