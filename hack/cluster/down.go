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
	"errors"
	"fmt"
	"os"
	"time"
)

// down ends what was started, takes back what was changed and deletes the cluster's state; bin and logs stay. It needs
// no component to answer, so it also clears away what a crash, a reboot or an interrupted start has left.
func down(ctx context.Context, l layout) error {
	running, err := recorded(l)
	if err != nil {
		return err
	}
	for _, n := range furtherNodes(l) {
		if err := leave(ctx, l, n); err != nil {
			return err
		}
	}
	// From the top: what would start Pods again goes first, then the Pods, then what they live on.
	for _, names := range [][]string{
		{"kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager", "kube-apiserver"},
		{"containerd"}, {"registry", "registry-auth", "etcd"},
	} {
		if names[0] == "registry" {
			if err := endContainers(ctx, l, firstNode); err != nil {
				return err
			}
		}
		if err := stopAll(ctx, running, firstNode, names); err != nil {
			return err
		}
	}
	if err := unmountBelow(l.dir); err != nil {
		return err
	}
	if _, err := os.Stat(hostRecordFile(l)); err == nil {
		if err := errors.Join(removeCgroups(ctx), restoreHost(ctx, l)); err != nil {
			return err
		}
	}
	for _, path := range l.state() {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("delete the cluster's state: %w", err)
		}
	}
	return nil
}

// stopAll ends some components of a node at once.
func stopAll(ctx context.Context, running map[string]process, n node, names []string) error {
	results := make(chan error)
	for _, name := range names {
		go func() {
			p, ok := running[n.component(name)]
			if !ok {
				results <- nil
				return
			}
			results <- p.stop(ctx, 5*time.Second)
		}()
	}
	var failed []error
	for range names {
		failed = append(failed, <-results)
	}
	return errors.Join(failed...)
}
