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
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// extensionCreated is where Kubernetes' plugin of containerd keeps what it knew of a container when it created it.
const extensionCreated = "io.cri-containerd.container.metadata"

// created is that record, as far as it is of use here. It never changes, and containerd keeps it over upgrades: all of
// 1.x and 2.x write this version. It is written with encoding/json from the messages of CRI, so the names of Config are
// those of its protocol buffers.
// https://github.com/containerd/containerd/blob/main/internal/cri/store/container/metadata.go
type created struct {
	// ImageRef is the image's ID: the digest of its configuration.
	ImageRef digest.Digest
	// ImageDigest is what the image's name stood for, an index or a manifest. Only recent versions know it.
	ImageDigest digest.Digest
	// ImageName is one of the names that the image had.
	ImageName string
	// StopSignal is the Pod's, or the image's.
	StopSignal string
	// Config is what the kubelet asked for.
	Config createdConfig
}

type createdConfig struct {
	Image struct {
		// UserSpecifiedImage is what the Pod says. The kubelet asks for the image by its ID.
		UserSpecifiedImage string `json:"user_specified_image"`
	} `json:"image"`
	Command    []string `json:"command"`
	Args       []string `json:"args"`
	WorkingDir string   `json:"working_dir"`
	// Envs are the Pod's, with what the kubelet adds. Their values are none of our business.
	Envs []struct {
		Key string `json:"key"`
	} `json:"envs"`
	Labels map[string]string `json:"labels"`
	Tty    bool              `json:"tty"`
	// StopSignal is 0 where the Pod names none.
	StopSignal int32 `json:"stop_signal"`
}

// sets is whether an environment variable is the Pod's or the runtime's own.
func (c *createdConfig) sets(name string) bool {
	if name == "HOSTNAME" || name == "TERM" && c.Tty {
		return true
	}
	for _, variable := range c.Envs {
		if variable.Key == name {
			return true
		}
	}
	return false
}

// createdVersion is the only version that there is.
const createdVersion = "v1"

// createdFrom reads the record; the zero value where the container has none, because it was not created through CRI.
func (c *Container) createdFrom() (created, error) {
	extension, ok := c.record.Extensions[extensionCreated]
	if !ok {
		return created{}, nil
	}
	var versioned struct {
		Version  string
		Metadata created
	}
	err := json.Unmarshal(extension.GetValue(), &versioned)
	if err == nil && versioned.Version != createdVersion {
		err = fmt.Errorf("it is of version %q", versioned.Version)
	}
	if err == nil {
		err = versioned.Metadata.ImageRef.Validate()
	}
	if err != nil {
		return created{}, fmt.Errorf("reading what containerd noted of the image of container %q: %w", c.ref.Name, err)
	}
	return versioned.Metadata, nil
}
