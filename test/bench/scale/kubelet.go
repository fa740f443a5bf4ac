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
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/util/cert"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// streamTimeout is how long the kube-apiserver may take to make the streams of an exec.
const streamTimeout = 30 * time.Second

// startKubelet listens, until ctx ends, for what the kube-apiserver asks of the kubelets of all nodes:
// to run a program in a container: a kill, or the claim of a server that was started again.
func (n *nodes) startKubelet(ctx context.Context) error {
	chain, key, err := cert.GenerateSelfSignedCertKey("localhost", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for the kubelets: %w", err)
	}
	n.kubelet = int32(listener.Addr().(*net.TCPAddr).Port) //nolint:gosec // a port
	server := &http.Server{
		Handler:           http.HandlerFunc(n.exec),
		ReadHeaderTimeout: streamTimeout,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		// SPDY, as the kubelets have it, begins as HTTP/1.1.
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12},
	}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	return nil
}

// exec serves /exec/NAMESPACE/POD/CONTAINER.
func (n *nodes) exec(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	if len(parts) != 5 || parts[1] != "exec" {
		http.NotFound(w, r)
		return
	}
	commit, err := n.pods.Pods(parts[2]).Get(parts[3])
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if _, err := httpstream.Handshake(r, w, []string{remotecommand.StreamProtocolV4Name}); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// One for each output, and one for how it ends.
	streams := make(chan httpstream.Stream, 3)
	connection := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, _ <-chan struct{}) error {
		streams <- stream
		return nil
	})
	if connection == nil {
		return
	}
	defer func() { _ = connection.Close() }()
	report := result.Result{Thawed: true}
	// What is frozen stays so for who claims it: nobody thaws here.
	if command := r.URL.Query()["command"]; !slices.Contains(command, "claim") {
		if err := n.kill(r.Context(), commit, argument(command, "pod-uid")); err != nil {
			report = result.Result{Error: result.From(err)}
		}
	}
	if err := answer(streams, report); err != nil {
		return // whoever asked has gone
	}
	<-connection.CloseChan()
}

// argument is the value of a flag.
func argument(command []string, name string) string {
	for _, arg := range command {
		if value, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
			return value
		}
	}
	return ""
}

// answer writes to each stream what is for it, and closes it.
func answer(streams <-chan httpstream.Stream, report result.Result) error {
	said, err := report.Encode()
	if err != nil {
		return err
	}
	status, err := json.Marshal(metav1.Status{Status: metav1.StatusSuccess})
	if err != nil {
		return err
	}
	soon := time.After(streamTimeout)
	for range cap(streams) {
		select {
		case stream := <-streams:
			content := map[string][]byte{corev1.StreamTypeStdout: said, corev1.StreamTypeError: status}[stream.Headers().Get(corev1.StreamType)]
			if _, err := stream.Write(content); err != nil {
				return err
			}
			if err := stream.Close(); err != nil {
				return err
			}
		case <-soon:
			return errors.New("not all streams have come")
		}
	}
	return nil
}
