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
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// registryTrouble is how a registry is.
type registryTrouble int32

const (
	registryWell registryTrouble = iota
	// registryDown cuts every connection.
	registryDown
	// registrySlow takes and gives 64 KiB a second.
	registrySlow
	// registryBroken answers 500 in the middle of a layer.
	registryBroken
	// registryBusy answers 429 with Retry-After.
	registryBusy
	// registryReadOnly takes nothing.
	registryReadOnly
	// registryCut breaks off in the middle of what it gives.
	registryCut
	registryTroubles
)

func (trouble registryTrouble) String() string {
	return [...]string{"well", "down", "slow", "broken", "busy", "read-only", "cut"}[trouble]
}

// troubledRegistry is the open registry of the cluster behind what can be wrong with one, at an address of its own, for
// nodes and Pods to reach.
type troubledRegistry struct {
	host    string
	trouble atomic.Int32
}

// newTroubledRegistry is well at first.
func (c *cluster) newTroubledRegistry(t *testing.T) *troubledRegistry {
	t.Helper()
	address, _, err := net.SplitHostPort(c.registry)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	r := &troubledRegistry{host: listener.Addr().String()}
	behind := &url.URL{Scheme: "http", Host: c.registry}
	proxy := &httputil.ReverseProxy{
		// The host stays ours, so that the registry leads its uploads back here.
		Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(behind)
			request.Out.Host = request.In.Host
		},
		ModifyResponse: func(answer *http.Response) error {
			switch registryTrouble(r.trouble.Load()) {
			case registrySlow:
				answer.Body = &slowBody{ReadCloser: answer.Body}
			case registryCut:
				if strings.Contains(answer.Request.URL.Path, "/blobs/") && answer.Request.Method == http.MethodGet {
					answer.Body = struct {
						io.Reader
						io.Closer
					}{io.LimitReader(answer.Body, 256<<10), answer.Body}
				}
			}
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		writes := request.Method != http.MethodGet && request.Method != http.MethodHead
		switch registryTrouble(r.trouble.Load()) {
		case registryDown:
			panic(http.ErrAbortHandler)
		case registrySlow:
			request.Body = &slowBody{ReadCloser: request.Body}
		case registryBroken:
			if request.Method == http.MethodPatch {
				_, _ = io.CopyN(io.Discard, request.Body, 256<<10)
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
		case registryBusy:
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		case registryReadOnly:
			if writes {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
		}
		proxy.ServeHTTP(w, request)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	hosts := filepath.Join(clusterDir(), "config", "hosts", r.host)
	config := fmt.Sprintf("server = \"http://%[1]s\"\n\n[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", r.host)
	if err := os.MkdirAll(hosts, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(hosts) })
	if err := os.WriteFile(filepath.Join(hosts, "hosts.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *troubledRegistry) is(trouble registryTrouble) { r.trouble.Store(int32(trouble)) }

// slowBody lets 8 KiB through every eighth of a second.
type slowBody struct{ io.ReadCloser }

func (b *slowBody) Read(p []byte) (int, error) {
	time.Sleep(time.Second / 8)
	return b.ReadCloser.Read(p[:min(len(p), 8<<10)])
}

// restartContainerd kills the node's containerd and starts it again.
func (c *cluster) restartContainerd(t *testing.T) {
	t.Helper()
	c.endComponent(t, "containerd")()
	eventually(t, "containerd answers again", patience, func(ctx context.Context) (bool, string) {
		_, err := c.containerd.Version(ctx)
		return err == nil, fmt.Sprint(err)
	})
}

// killServerAnew kills the server's process and has another Pod of it: one that is restarted in place waits longer each time.
// It returns when the new one answers.
func (r *room) killServerAnew() {
	r.t.Helper()
	r.kill(r.t, systemNamespace, serverPod, "server")
	now := metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}
	if err := r.kube.CoreV1().Pods(systemNamespace).Delete(r.t.Context(), serverPod, now); err != nil {
		r.t.Fatalf("delete the Pod of the server: %v", err)
	}
	r.awaitServer(r.t)
}
