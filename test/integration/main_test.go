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

// Package integration tests the API that the real server serves over its embedded etcd, as
// clients see it. It needs no cluster: where the controller would act, the tests write the status.
package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/rest"

	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server"
)

// deadline bounds every wait of these tests.
const deadline = 2 * time.Minute

// The users of the tests. Their token is their name.
const (
	admin      = "admin"        // may do everything
	editor     = "editor"       // may do what the role sandbox-editor allows
	viewer     = "viewer"       // may do what the role sandbox-viewer allows
	pauser     = "pauser"       // may do what the role sandbox-pauser allows
	blind      = "no-sandboxes" // may do everything but get sandboxes
	restricted = "no-snapshots" // may do everything but get snapshots
	gateway    = "gateway"      // may act as others, and read what it needs for itself
	tenants    = "tenant:"      // and a namespace: may do there what the role lifecycle-tenant allows
)

// shared is the server of all tests that do not need one of their own. They keep out of each
// other's way by their namespaces.
var shared *running

// atEnd are what further servers that tests share have to do at the end.
var atEnd []func() error

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "sbx")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		shared, err = start(dir, nil)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		code := m.Run()
		for _, end := range append(atEnd, shared.stop) {
			if err := end(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
		return code
	}())
}

// running is a server that serves.
type running struct {
	server *server.Server
	cancel context.CancelFunc
	ended  chan error
}

// start runs a server over a data directory. change, if not nil, changes its options.
func start(dataDir string, change func(*server.Options)) (*running, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	options := server.NewOptions()
	options.DataDir = dataDir
	options.Recommended.SecureServing.Listener = listener
	options.Recommended.SecureServing.BindAddress = net.IPv4(127, 0, 0, 1)
	options.Standalone = &server.Standalone{
		Authenticator: authenticator.RequestFunc(authenticate),
		Authorizer:    authorizer.AuthorizerFunc(authorize),
	}
	if change != nil {
		change(options)
	}
	if err := errors.Join(options.Complete(), options.Validate()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := server.New(ctx, options)
	if err != nil {
		cancel()
		return nil, err
	}
	r := &running{server: s, cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- s.Run(ctx) }()
	if err := r.waitUntilServing(); err != nil {
		cancel()
		return nil, err
	}
	return r, nil
}

// waitUntilServing waits for the version endpoint, which answers whatever the store is.
func (r *running) waitUntilServing() error {
	client, err := versioned.NewForConfig(r.server.Loopback())
	if err != nil {
		return err
	}
	for end := time.Now().Add(deadline); ; {
		_, err = client.Discovery().RESTClient().Get().AbsPath("/livez").DoRaw(context.Background())
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case err := <-r.ended:
			return fmt.Errorf("the server ended while it started: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (r *running) stop() error {
	r.cancel()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(deadline):
		return errors.New("the server did not end")
	}
}

// as returns the connection of a user.
func (r *running) as(name string) *rest.Config {
	config := r.server.Loopback()
	config.BearerToken = name
	config.QPS, config.Burst = 1000, 1000
	return config
}

func authenticate(req *http.Request) (*authenticator.Response, bool, error) {
	name, found := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	if name == admin || name == editor || name == viewer || name == pauser || name == blind || name == restricted || name == gateway || strings.HasPrefix(name, tenants) {
		return &authenticator.Response{User: &user.DefaultInfo{Name: name}}, found, nil
	}
	return nil, false, nil
}

func authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	allowed := false
	var err error
	if namespace, is := strings.CutPrefix(a.GetUser().GetName(), tenants); is {
		allowed, err = allowedBy(rolesOfTenants, "ClusterRole/lifecycle-tenant", a)
		allowed = allowed && a.GetNamespace() == namespace
	}
	switch a.GetUser().GetName() {
	case gateway:
		// Whom it may act as each tenant's own role says; here it may act as anybody.
		allowed, err = allowedBy(rolesOfGateway, "ClusterRole/lifecycle-gateway", a)
		if !allowed && err == nil && a.GetNamespace() == keysNamespace {
			allowed, err = allowedBy(rolesOfGateway, "Role/lifecycle-gateway", a)
		}
		allowed = allowed || a.GetVerb() == "impersonate"
	case admin, user.APIServerUser:
		allowed = true
	case editor, viewer, pauser:
		allowed, err = allowedBy(rolesOfUsers, "ClusterRole/sandbox-"+a.GetUser().GetName(), a)
	case blind:
		allowed = a.GetResource() != "sandboxes" || a.GetVerb() != "get"
	case restricted:
		allowed = a.GetResource() != "sandboxsnapshots" || a.GetVerb() != "get"
	}
	if err != nil {
		return authorizer.DecisionNoOpinion, "", err
	}
	if allowed {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionDeny, "no rule allows it", nil
}

// What is installed: the roles for users, those of the gateway, and that of a key's user.
var (
	rolesOfUsers   = rolesIn("base", "rbac-users.yaml")
	rolesOfGateway = rolesIn("gateway", "rbac.yaml")
	rolesOfTenants = rolesIn("gateway", "rbac-tenants.yaml")
)

// rolesIn reads the rules of the roles in a file, by kind and name.
func rolesIn(path ...string) func() (map[string][]rbacv1.PolicyRule, error) {
	return sync.OnceValues(func() (map[string][]rbacv1.PolicyRule, error) {
		file, err := os.Open(filepath.Join(append([]string{"..", "..", "artifacts"}, path...)...))
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }()
		rules := map[string][]rbacv1.PolicyRule{}
		for documents := yaml.NewYAMLOrJSONDecoder(file, 4096); ; {
			var role rbacv1.ClusterRole
			err := documents.Decode(&role)
			if errors.Is(err, io.EOF) {
				return rules, nil
			}
			if err != nil {
				return nil, err
			}
			rules[role.Kind+"/"+role.Name] = role.Rules
		}
	})
}

func allowedBy(roles func() (map[string][]rbacv1.PolicyRule, error), role string, a authorizer.Attributes) (bool, error) {
	rules, err := roles()
	return slices.ContainsFunc(rules[role], func(rule rbacv1.PolicyRule) bool { return allows(rule, a) }), err
}

// allows is what RBAC makes of a rule without wildcards.
func allows(rule rbacv1.PolicyRule, a authorizer.Attributes) bool {
	resource := a.GetResource()
	if a.GetSubresource() != "" {
		resource += "/" + a.GetSubresource()
	}
	if len(rule.ResourceNames) > 0 && !slices.Contains(rule.ResourceNames, a.GetName()) {
		return false
	}
	return slices.Contains(rule.Verbs, a.GetVerb()) && slices.Contains(rule.APIGroups, a.GetAPIGroup()) && slices.Contains(rule.Resources, resource)
}
