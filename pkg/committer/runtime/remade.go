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

package runtime

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimespec "github.com/opencontainers/runtime-spec/specs-go"
)

// remade is the configuration of the container's image as far as it can be told from the container: what the runtime
// was told by the image, and neither by the Pod nor by itself. It has no layers and no history.
func (c *Container) remade(noted created) (*ocispec.Image, error) {
	if noted.ImageRef == "" {
		return nil, errors.New("the runtime has not noted what of the container's settings the Pod has set")
	}
	spec, err := c.spec()
	if err != nil {
		return nil, err
	}
	if spec.Process == nil {
		return nil, errors.New("the container's runtime specification has no process")
	}
	config := configOf(noted, spec, c.record.Labels)
	for _, v := range volumes(c.ref.ID, spec, "") {
		if config.Config.Volumes == nil {
			config.Config.Volumes = map[string]struct{}{}
		}
		config.Config.Volumes[v.Path] = struct{}{}
	}
	config.RootFS.Type = "layers"
	config.Platform = ocispec.Platform{Architecture: platforms.DefaultSpec().Architecture, Variant: platforms.DefaultSpec().Variant, OS: "linux"}
	return config, nil
}

// configOf undoes what Kubernetes' plugin does to make a container's process of what the image and the Pod say of it
// (buildLinuxSpec and WithProcessArgs in containerd's internal/cri). Nothing that the Pod says is taken: it may be
// secret, and the Pod's template says it again.
func configOf(noted created, spec *runtimespec.Spec, labels map[string]string) *ocispec.Image {
	asked, process := noted.Config, spec.Process
	config := ocispec.ImageConfig{Labels: map[string]string{}}
	for _, variable := range process.Env {
		if name, _, _ := strings.Cut(variable, "="); !asked.sets(name) {
			config.Env = append(config.Env, variable)
		}
	}
	switch {
	case len(asked.Command) > 0: // it is all the Pod's
	case len(asked.Args) == 0:
		// Where the entrypoint ends is not known; together they are right.
		config.Cmd = slices.Clone(process.Args)
	case len(process.Args) > len(asked.Args) && slices.Equal(process.Args[len(process.Args)-len(asked.Args):], asked.Args):
		config.Entrypoint = slices.Clone(process.Args[:len(process.Args)-len(asked.Args)])
	}
	if asked.WorkingDir == "" {
		config.WorkingDir = process.Cwd
	}
	// The kubelet tells the plugin the image's user as if it were the Pod's. Whoever of the two it is, the
	// processes must not become somebody else.
	if process.User.UID != 0 || process.User.GID != 0 {
		config.User = fmt.Sprintf("%d:%d", process.User.UID, process.User.GID)
	}
	if asked.StopSignal == 0 {
		config.StopSignal = noted.StopSignal
	}
	for key, value := range labels {
		if _, ofThePod := asked.Labels[key]; !ofThePod && key != labelKind {
			config.Labels[key] = value
		}
	}
	return &ocispec.Image{Config: config}
}
