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

package gateway

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	// What it asks of kube-apiserver, and how long that took.
	_ "k8s.io/component-base/metrics/prometheus/restclient"
)

// serveMetrics has /metrics answered until the returned function is called, at an address of its own: what is there is for the
// cluster's operator, and the API's address is for everybody. An empty address has nothing served.
func serveMetrics(ctx context.Context, address string) (at string, end func(), err error) {
	if address == "" {
		return "", func() {}, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return "", nil, fmt.Errorf("listening for --metrics-listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", legacyregistry.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	klog.InfoS("Serving metrics", "address", listener.Addr().String())
	return listener.Addr().String(), func() { _ = server.Close() }, nil
}
