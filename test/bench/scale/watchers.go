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
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// watchers follow the sandboxes of their namespaces through the kube-apiserver, and count.
type watchers struct {
	events, bytes, reconnects atomic.Int64
	running                   sync.WaitGroup
}

// startWatchers begins with count watchers, spread over the namespaces, and returns when all watch.
func (c *cluster) startWatchers(ctx context.Context, count int, namespaces []string) (*watchers, error) {
	client, err := rest.HTTPClientFor(c.config)
	if err != nil {
		return nil, err
	}
	w := &watchers{}
	for i := range count {
		namespace := namespaces[i%len(namespaces)]
		list, err := c.sandboxes.LifecycleV1alpha1().Sandboxes(namespace).List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return nil, fmt.Errorf("list the sandboxes of %s: %w", namespace, err)
		}
		url := c.config.Host + "/apis/lifecycle.opensandbox.io/v1alpha1/namespaces/" + namespace + "/sandboxes?watch=1&timeoutSeconds=7200"
		stream, err := open(ctx, client, url+"&resourceVersion="+list.ResourceVersion)
		if err != nil {
			return nil, err
		}
		w.running.Go(func() { w.follow(ctx, client, url, stream) })
	}
	return w, nil
}

func open(ctx context.Context, client *http.Client, url string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		return nil, fmt.Errorf("watch: %s", response.Status)
	}
	return response.Body, nil
}

// follow counts what a watch delivers, and watches anew where it ends. An event is a line.
func (w *watchers) follow(ctx context.Context, client *http.Client, url string, stream io.ReadCloser) {
	buffer := make([]byte, 16<<10)
	for {
		for {
			n, err := stream.Read(buffer)
			w.bytes.Add(int64(n))
			w.events.Add(int64(bytes.Count(buffer[:n], []byte{'\n'})))
			if err != nil {
				break
			}
		}
		_ = stream.Close()
		for {
			if ctx.Err() != nil {
				return
			}
			w.reconnects.Add(1)
			var err error
			if stream, err = open(ctx, client, url); err == nil {
				break
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}
