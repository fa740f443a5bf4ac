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

package committer

import (
	"context"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// OnContainerd is the Node of a containerd.
func OnContainerd(client *runtime.Client) Node { return containerdNode{client} }

type containerdNode struct{ *runtime.Client }

func (n containerdNode) Find(ctx context.Context, podUID string, ref runtime.Ref) (Container, error) {
	c, err := n.Client.Find(ctx, podUID, ref)
	if err != nil {
		return nil, err // not c: a nil *runtime.Container would be a Container that is not nil
	}
	return containerdContainer{c}, nil
}

func (n containerdNode) FindEnded(ctx context.Context, podUID string, ref runtime.Ref) (Container, error) {
	c, err := n.Client.FindEnded(ctx, podUID, ref)
	if err != nil {
		return nil, err
	}
	return containerdContainer{c}, nil
}

func (n containerdNode) Pod(ctx context.Context, podUID string) (Pod, error) {
	found, err := n.Client.Pod(ctx, podUID)
	if err != nil {
		return Pod{}, err
	}
	var pod Pod
	for _, c := range found.Containers {
		pod.Containers = append(pod.Containers, containerdContainer{c})
	}
	if found.Group != nil {
		pod.Group = found.Group
	}
	for _, g := range found.Strays {
		pod.Strays = append(pod.Strays, g)
	}
	return pod, nil
}

type containerdContainer struct{ *runtime.Container }

func (c containerdContainer) Base(ctx context.Context) (*Base, error) {
	b, err := c.Container.Base(ctx)
	if err != nil {
		return nil, err
	}
	return &Base{Base: b.Base, Repositories: b.Repositories, Resources: b.Resources, Open: b.Open}, nil
}
