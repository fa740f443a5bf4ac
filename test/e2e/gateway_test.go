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
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/contract"
)

const (
	gatewayName = "lifecycle-gateway"
	gatewayKeys = "lifecycle-gateway-keys"
	tenantRole  = "lifecycle-tenant"
	keyHeader   = "OPEN-SANDBOX-API-KEY"
)

// keyholder is somebody who speaks to the gateway: the user that the key stands for has its rights in the room alone.
type keyholder struct {
	t         *testing.T
	url, key  string
	user      string
	namespace string
}

// keyholder makes a tenant of the room, as artifacts/examples/lifecycle-tenant.yaml has one, and returns once its key is known. The
// rights are those of a ClusterRole; none: no rights.
func (r *room) keyholder(role string) *keyholder {
	r.t.Helper()
	user := r.namespace
	if role != tenantRole {
		user += "-" + strings.ToLower(rand.Text()[:5])
	}
	subject := rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}
	if role != "" {
		_, err := r.kube.RbacV1().RoleBindings(r.namespace).Create(r.t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{subject},
		}, metav1.CreateOptions{})
		if err != nil {
			r.t.Fatal(err)
		}
	}
	r.letTheGatewayActAs(user)
	holder := &keyholder{t: r.t, url: gatewayURL(r.t), key: rand.Text(), user: user, namespace: r.namespace}
	r.addKey(holder)
	holder.awaitStatus("the key of "+user+" is known", func(status int) bool { return status != http.StatusUnauthorized })
	if role != "" {
		// What was written of roles is not known at once to who decides.
		holder.awaitStatus(user+" may act", func(status int) bool { return status == http.StatusOK })
	}
	return holder
}

func gatewayURL(t *testing.T) string {
	t.Helper()
	url := os.Getenv("LIFECYCLE_URL")
	if url == "" {
		t.Fatal("LIFECYCLE_URL is not set: `make deploy` writes it into cluster.env once the gateway is there")
	}
	return url
}

func (r *room) letTheGatewayActAs(user string) {
	r.t.Helper()
	meta := metav1.ObjectMeta{Name: gatewayName + "-as-" + user}
	roles, bindings := r.kube.RbacV1().ClusterRoles(), r.kube.RbacV1().ClusterRoleBindings()
	if _, err := roles.Create(r.t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"users"}, ResourceNames: []string{user}, Verbs: []string{"impersonate"}},
	}}, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = roles.Delete(context.Background(), meta.Name, metav1.DeleteOptions{}) })
	if _, err := bindings.Create(r.t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: systemNamespace, Name: gatewayName}},
	}, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = bindings.Delete(context.Background(), meta.Name, metav1.DeleteOptions{}) })
}

// addKey writes the SHA-256 of a key into the gateway's Secret, until the test ends.
func (r *room) addKey(of *keyholder) {
	r.t.Helper()
	sum := sha256.Sum256([]byte(of.key))
	entry, err := json.Marshal(map[string]string{"sha256": hex.EncodeToString(sum[:]), "user": of.user, "namespace": of.namespace})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.setKey(r.t.Context(), of.user, entry); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = r.setKey(context.Background(), of.user, nil) })
}

// setKey replaces one entry of the gateway's Secret; nil removes it.
func (r *room) setKey(ctx context.Context, name string, entry []byte) error {
	patch, err := json.Marshal(map[string]any{"data": map[string]any{name: entry}})
	if err != nil {
		return err
	}
	if entry == nil {
		patch = fmt.Appendf(nil, `{"data": {%q: null}}`, name)
	}
	if _, err := r.kube.CoreV1().Secrets(systemNamespace).Patch(ctx, gatewayKeys, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("the gateway's keys: %w", err)
	}
	return nil
}

// answered is what the gateway says to a request.
type answered struct {
	status int
	header http.Header
	body   string
}

// problem is an answer in the shape that every error has.
type problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// try sends a request with the key, or tells why there is no answer.
func (k *keyholder) try(ctx context.Context, method, path, body string) (answered, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, k.url+path, strings.NewReader(body))
	if err != nil {
		return answered{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	if k.key != "" {
		request.Header.Set(keyHeader, k.key)
	}
	// Every answer is checked against the document, too.
	response, err := (&http.Client{Transport: contract.Transport(k.t, nil)}).Do(request)
	if err != nil {
		return answered{}, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return answered{response.StatusCode, response.Header, string(content)}, err
}

// ask is try for a request that has to be answered.
func (k *keyholder) ask(method, path, body string) answered {
	k.t.Helper()
	got, err := k.try(k.t.Context(), method, path, body)
	if err != nil {
		k.t.Fatalf("%s %s: %v", method, path, err)
	}
	return got
}

// must is ask for an answer of one status, decoded.
func (k *keyholder) must(status int, method, path, body string) map[string]any {
	k.t.Helper()
	got := k.ask(method, path, body)
	if got.status != status {
		k.t.Fatalf("%s %s: %d %s, want %d", method, path, got.status, got.body, status)
	}
	if got.body == "" {
		return nil
	}
	object := map[string]any{}
	if err := json.Unmarshal([]byte(got.body), &object); err != nil {
		k.t.Fatalf("%s %s: %v: %s", method, path, err, got.body)
	}
	return object
}

// mustRefuse checks the shape of an error: exactly code and message, and the header by which it is found in logs.
func (k *keyholder) mustRefuse(what string, got answered, status int, code string) problem {
	k.t.Helper()
	fields := map[string]any{}
	if err := json.Unmarshal([]byte(got.body), &fields); err != nil {
		k.t.Errorf("%s: %v: %s", what, err, got.body)
	}
	said := problem{fmt.Sprint(fields["code"]), fmt.Sprint(fields["message"])}
	if got.status != status || len(fields) != 2 || said.Code != code || len(said.Message) < 10 || got.header.Get("X-Request-ID") == "" {
		k.t.Errorf("%s: %d %s (%v), want %d and %s in exactly code and message", what, got.status, got.body, got.header, status, code)
	}
	return said
}

// awaitStatus waits until the answer to a list is as it is to be, from each replica: one of them may know already.
func (k *keyholder) awaitStatus(what string, as func(status int) bool) {
	k.t.Helper()
	right := 0
	eventually(k.t, what, patience, func(ctx context.Context) (bool, string) {
		got, err := k.try(ctx, http.MethodGet, "/v1/sandboxes", "")
		if err != nil || !as(got.status) {
			right = 0
			return false, fmt.Sprintf("%d %s %v", got.status, got.body, err)
		}
		right++
		// A connection is kept by one replica.
		http.DefaultClient.CloseIdleConnections()
		return right >= 10, fmt.Sprintf("%d times right", right)
	})
}

// state is what the gateway says of a sandbox.
func (k *keyholder) state(ctx context.Context, id string) (state, told string) {
	got, err := k.try(ctx, http.MethodGet, "/v1/sandboxes/"+id, "")
	if err != nil || got.status != http.StatusOK {
		return "", fmt.Sprintf("%d %s %v", got.status, got.body, err)
	}
	var sandbox struct {
		Status struct {
			State string `json:"state"`
		} `json:"status"`
	}
	if err := json.Unmarshal([]byte(got.body), &sandbox); err != nil {
		return "", err.Error()
	}
	return sandbox.Status.State, got.body
}

func (k *keyholder) awaitState(id, want string) {
	k.t.Helper()
	eventually(k.t, "sandbox "+id+" is "+want, patience, func(ctx context.Context) (bool, string) {
		state, told := k.state(ctx, id)
		return state == want, told
	})
}

// TestKeysComeAndGoWithoutARestart: who is in the Secret is let in, who is not any more is not, and both replicas go on.
func TestKeysComeAndGoWithoutARestart(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	before := r.gatewayPods()
	first := r.keyholder(tenantRole)
	second := &keyholder{t: t, url: first.url, key: rand.Text(), user: first.user, namespace: first.namespace}

	got := second.ask(http.MethodGet, "/v1/sandboxes", "")
	second.mustRefuse("a key that is not there", got, http.StatusUnauthorized, "INVALID_API_KEY")
	nobody := &keyholder{t: t, url: first.url}
	nobody.mustRefuse("no key", nobody.ask(http.MethodGet, "/sandboxes", ""), http.StatusUnauthorized, "MISSING_API_KEY")

	// Under the same name: the new one replaces the old one.
	r.addKey(second)
	second.awaitStatus("the new key is known", func(status int) bool { return status == http.StatusOK })
	first.awaitStatus("the old key is not", func(status int) bool { return status == http.StatusUnauthorized })

	if err := r.setKey(t.Context(), second.user, nil); err != nil {
		t.Fatal(err)
	}
	second.awaitStatus("a removed key is not known any more", func(status int) bool { return status == http.StatusUnauthorized })

	// One that nobody can read keeps nobody else out.
	if err := r.setKey(t.Context(), second.user+"-broken", []byte("no object")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.setKey(context.Background(), second.user+"-broken", nil) })
	r.addKey(first)
	first.awaitStatus("the old key is back", func(status int) bool { return status == http.StatusOK })
	if after := r.gatewayPods(); after != before {
		t.Errorf("the gateway was %s, and is %s", before, after)
	}
}

// gatewayPods says which there are, and how often each was started.
func (r *room) gatewayPods() string {
	r.t.Helper()
	pods, err := r.kube.CoreV1().Pods(systemNamespace).List(r.t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + gatewayName})
	if err != nil || len(pods.Items) < 2 {
		r.t.Fatalf("the gateway's Pods: %d, %v", len(pods.Items), err)
	}
	said := ""
	for _, pod := range pods.Items {
		for _, status := range pod.Status.ContainerStatuses {
			said += fmt.Sprintf("%s (%d restarts) ", pod.UID, status.RestartCount)
		}
	}
	return said
}

// TestAKeysUserMayWhatItMay: what a key opens is what its user may do, in its namespace, and nothing of others is seen.
func TestAKeysUserMayWhatItMay(t *testing.T) {
	t.Parallel()
	r, other := newRoom(t), newRoom(t)
	r.start("demo")
	tenant, stranger := r.keyholder(tenantRole), other.keyholder(tenantRole)

	for _, path := range []string{"/v1/sandboxes/demo", "/sandboxes/demo", "/v1/sandboxes/demo/endpoints/44772", "/v1/sandboxes/demo/proxy/8080/"} {
		stranger.mustRefuse("GET "+path+" of another namespace", stranger.ask(http.MethodGet, path, ""), http.StatusNotFound, "KUBERNETES::SANDBOX_NOT_FOUND")
	}
	for _, verb := range []string{"pause", "resume"} {
		stranger.mustRefuse(verb+" of another namespace's", stranger.ask(http.MethodPost, "/v1/sandboxes/demo/"+verb, ""), http.StatusNotFound, "KUBERNETES::SANDBOX_NOT_FOUND")
	}
	if listed := stranger.must(http.StatusOK, http.MethodGet, "/v1/sandboxes", ""); len(listed["items"].([]any)) != 0 {
		t.Errorf("it lists another namespace's: %v", listed)
	}
	// Made with kubectl or a client, and there all the same.
	if got := tenant.must(http.StatusOK, http.MethodGet, "/v1/sandboxes/demo", ""); got["id"] != "demo" {
		t.Errorf("one that was not made here is %v", got)
	}

	pauser := r.keyholder("sandbox-pauser")
	create := `{"image": {"uri": "` + busybox + `"}, "entrypoint": ["sleep", "infinity"], "resourceLimits": {"cpu": "50m", "memory": "32Mi"}}`
	for what, refused := range map[string]answered{
		"create": pauser.ask(http.MethodPost, "/v1/sandboxes", create),
		"delete": pauser.ask(http.MethodDelete, "/v1/sandboxes/demo", ""),
		"renew":  pauser.ask(http.MethodPost, "/v1/sandboxes/demo/renew-expiration", `{"expiresAt": "2099-01-01T00:00:00Z"}`),
	} {
		if refused.status != http.StatusForbidden && refused.status != http.StatusConflict || !strings.Contains(refused.body, `"code"`) {
			t.Errorf("%s by who may only pause: %d %s", what, refused.status, refused.body)
		}
	}
	if got := pauser.ask(http.MethodPost, "/v1/sandboxes/demo/pause", ""); got.status != http.StatusAccepted || got.body != "" || got.header.Get("Content-Length") != "0" {
		t.Errorf("pause by who may pause: %d %q, %v", got.status, got.body, got.header)
	}
	pauser.awaitState("demo", "Paused")
	nobody := r.keyholder("")
	nobody.mustRefuse("a list by a user without rights", nobody.ask(http.MethodGet, "/v1/sandboxes", ""), http.StatusForbidden, "INSUFFICIENT_ROLE")
}
