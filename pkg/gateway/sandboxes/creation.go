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

package sandboxes

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/injection"
)

// creation is what a caller asks a sandbox to be. Nil and empty mean that nothing is said.
type creation struct {
	Image           *image            `json:"image,omitempty"`
	SnapshotID      string            `json:"snapshotId,omitempty"`
	TemplateID      string            `json:"templateId,omitempty"`
	Entrypoint      []string          `json:"entrypoint,omitempty"`
	TimeoutSeconds  *int64            `json:"timeout,omitempty"`
	Limits          map[string]string `json:"resourceLimits,omitempty"`
	Requests        map[string]string `json:"resourceRequests,omitempty"`
	Env             map[string]string `json:"env,omitempty"`
	Metadata        map[string]string `json:"metadata,omitempty"`
	Extensions      map[string]string `json:"extensions,omitempty"`
	SecureAccess    bool              `json:"secureAccess,omitempty"`
	Platform        *platform         `json:"platform,omitempty"`
	Volumes         []volume          `json:"volumes,omitempty"`
	Hooks           bool              `json:"lifecycle,omitempty"`
	NetworkPolicy   bool              `json:"networkPolicy,omitempty"`
	CredentialProxy bool              `json:"credentialProxy,omitempty"`
}

type image struct {
	URI      string `json:"uri"`
	Username string `json:"username,omitempty"`
	// Password is nowhere but in the Secret: not in what is compared, logged or answered.
	Password string `json:"-"`
	Private  bool   `json:"private,omitempty"`
}

type platform struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
}

// Limits of what is asked for.
const (
	minTimeout = 60
	// maxTimeout, in seconds, is a hundred years: beyond it somebody has mistaken the unit, and would not notice for long.
	maxTimeout = 100 * 365 * 24 * 3600
)

// What of the extensions is known.
const (
	extensionPool   = "poolRef"
	extensionRenew  = "access.renew.extend.seconds"
	extensionPrefix = "opensandbox.extensions."
)

// fingerprint tells whether two requests ask for the same. A password is no part of it: whoever may read the sandbox could
// try passwords against it.
func (c *creation) fingerprint() (string, error) {
	encoded, err := json.Marshal(c) // maps are sorted
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:]), nil
}

// check refuses what can be told from the request alone, in the order of the document.
func (c *creation) check(settings *Settings) error {
	for _, check := range []func(*Settings) error{
		c.checkOffered, c.checkSource, c.checkEntrypoint, c.checkTimeout, c.checkResources, c.checkEnv, c.checkMetadata, c.checkExtensions, c.checkVolumes,
	} {
		if err := check(settings); err != nil {
			return err
		}
	}
	return nil
}

// checkOffered comes first: that a client can do without a field it must know before it is told to write it better.
func (c *creation) checkOffered(*Settings) error {
	switch {
	case c.NetworkPolicy:
		return notOffered("networkPolicy: this server has no egress sidecar; leave the field out, and restrict the namespace by a NetworkPolicy of Kubernetes")
	case c.CredentialProxy:
		return notOffered("credentialProxy: this server has none; leave the field out, or set enabled to false")
	case c.TemplateID != "":
		return notOffered("templateId: this server has no templates; name an image or a snapshotId")
	case c.Hooks:
		return notOffered("lifecycle: this server runs no hooks; leave the field out, and begin with the command in entrypoint")
	case c.Platform != nil && c.Platform.OS == "windows":
		return notOffered("platform.os: this server has no sandboxes of windows; say linux")
	case c.Extensions[extensionPool] != "":
		return notOffered("extensions.%s: this server has no pools; name an image or a snapshotId instead", extensionPool)
	case c.Extensions[extensionRenew] != "":
		return notOffered("extensions[%q]: this server does not prolong sandboxes when they are used; call renew-expiration, or leave out timeout", extensionRenew)
	}
	for i, volume := range c.Volumes {
		if volume.OSSFS {
			return notOffered("volumes[%d].ossfs: this server does not mount OSS; use pvc with a storage class that does", i)
		}
	}
	return nil
}

func (c *creation) checkSource(*Settings) error {
	switch {
	case c.Image == nil && c.SnapshotID == "":
		return invalid("image: name an image, or a snapshotId to start from")
	case c.Image != nil && c.SnapshotID != "":
		return invalid("snapshotId: name an image or a snapshotId, not both")
	case c.SnapshotID != "":
		return nil
	}
	if _, err := reference.ParseNormalizedNamed(c.Image.URI); err != nil {
		return invalid("image.uri: %q is no image as `docker pull` takes it (%v)", c.Image.URI, err)
	}
	if c.Image.Private && (c.Image.Username == "" || c.Image.Password == "") {
		return invalid("image.auth: needs username and password; leave it out for a public image")
	}
	return nil
}

func (c *creation) checkEntrypoint(*Settings) error {
	switch {
	case len(c.Entrypoint) == 0 && c.Image != nil:
		return badRequest(answer.CodeInvalidEntrypoint, "entrypoint: say which command the sandbox runs, such as [\"tail\",\"-f\",\"/dev/null\"]")
	case len(c.Entrypoint) > 0 && strings.TrimSpace(c.Entrypoint[0]) == "":
		return badRequest(answer.CodeInvalidEntrypoint, "entrypoint[0]: is empty; it is the program to run")
	}
	return checkText("entrypoint", answer.CodeInvalidEntrypoint, c.Entrypoint)
}

func (c *creation) checkTimeout(*Settings) error {
	switch timeout := c.TimeoutSeconds; {
	case timeout == nil:
		return nil
	case *timeout < minTimeout:
		return invalid("timeout: %d is less than %d seconds; leave it out for a sandbox that does not expire", *timeout, minTimeout)
	case *timeout > maxTimeout:
		return invalid("timeout: %d is more than a hundred years, in seconds; leave it out for a sandbox that does not expire", *timeout)
	}
	return nil
}

// expires is when the sandbox does, nil for never.
func (c *creation) expires(now time.Time) *metav1.Time {
	if c.TimeoutSeconds == nil {
		return nil
	}
	return v1alpha1.ExpireAt(now.Add(time.Duration(*c.TimeoutSeconds) * time.Second))
}

func (c *creation) checkEnv(*Settings) error {
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00") || !printable(name):
			return invalid("env: %q is no name of a variable: one is of printable ASCII, without =", name)
		case injection.Reserved(name):
			return invalid("env.%s: is set by this server; leave it out", name)
		}
		if err := checkText("env."+name, answer.CodeInvalidParameter, []string{c.Env[name]}); err != nil {
			return err
		}
	}
	return nil
}

func printable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

// checkText refuses what no process can be given.
func checkText(field, code string, texts []string) error {
	for i, text := range texts {
		if strings.ContainsRune(text, 0) {
			return badRequest(code, "%s: the text at %d has a NUL byte in it, which no program can be given", field, i)
		}
	}
	return nil
}
