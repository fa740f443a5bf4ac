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

package naming

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	"k8s.io/apimachinery/pkg/types"
)

// DefaultImageTemplate puts the images of one container of one sandbox into a repository of
// their own, told apart by tag.
const DefaultImageTemplate = "{registry}/{namespace}/{sandbox}-{container}:{tag}"

// ImageTemplate makes the reference that a container's snapshot is pushed to.
type ImageTemplate struct {
	registry, template string
}

// Image is what a reference is made of.
type Image struct {
	Namespace, Sandbox, Container string
	// Attempt is the number of the pause, zero for a snapshot that a user asked for.
	Attempt int64
	// SnapshotUID makes the reference unique: tags are never written twice, so registries with
	// immutable tags work and a recreated sandbox never overwrites.
	SnapshotUID types.UID
}

const noUID types.UID = "00000000-0000-4000-8000-000000000000"

// ParseImageTemplate checks a template. Its placeholders are {registry}, {namespace},
// {sandbox}, {container}, {uid} (the snapshot's UID, 32 hex digits) and {tag} (snap-gen<N>-<8
// hex of the UID> for a pause, else snap-<32 hex>). It must hold {registry} at its start,
// {namespace}, {container} and one of {uid} and {tag}, or two tenants could share an image. An
// empty registry is allowed here: the snapshots say so then.
func ParseImageTemplate(registry, template string) (*ImageTemplate, error) {
	if template == "" {
		template = DefaultImageTemplate
	}
	registry = strings.TrimSuffix(registry, "/")
	if strings.Contains(registry, "://") {
		return nil, fmt.Errorf("--snapshot-registry %q must be named without a scheme, as in registry.example.com/path", registry)
	}
	if !strings.HasPrefix(template, "{registry}/") && !strings.HasPrefix(template, "{registry}:") {
		return nil, fmt.Errorf("--snapshot-image-template %q must start with {registry}: images go only below --snapshot-registry", template)
	}
	for _, needed := range []string{"{namespace}", "{container}"} {
		if !strings.Contains(template, needed) {
			return nil, fmt.Errorf("--snapshot-image-template %q must hold %s, or two sandboxes could share an image", template, needed)
		}
	}
	if !strings.Contains(template, "{uid}") && !strings.Contains(template, "{tag}") {
		return nil, fmt.Errorf("--snapshot-image-template %q must hold {uid} or {tag}, or two snapshots could share an image", template)
	}
	t := &ImageTemplate{registry: registry, template: template}
	sample := *t
	if registry == "" {
		sample.registry = "registry.example.com"
	}
	ref := sample.Reference(Image{Namespace: "namespace", Sandbox: "sandbox", Container: "container", Attempt: 1, SnapshotUID: noUID})
	if strings.ContainsAny(ref, "{}") {
		return nil, fmt.Errorf("--snapshot-image-template %q has an unknown placeholder; known are {registry} {namespace} {sandbox} {container} {uid} {tag}", template)
	}
	if err := check(ref); err != nil {
		return nil, fmt.Errorf("--snapshot-image-template %q does not make an image reference with a tag (%s): %w", template, ref, err)
	}
	return t, nil
}

// maxName is how long the names of a namespace, of a sandbox and of a container may be.
const maxName = 63

// Longest fails where the longest names that the API takes do not fit into a reference: sandboxes
// of such names cannot be committed.
func (t *ImageTemplate) Longest() error {
	if !t.Configured() {
		return nil
	}
	long := strings.Repeat("x", maxName)
	return t.Check(Image{Namespace: long, Sandbox: long, Container: long, Attempt: 1_000_000})
}

// Check fails where the reference of an image is none that registries and nodes take. The
// snapshot's UID may be missing: it has the same length for all.
func (t *ImageTemplate) Check(image Image) error {
	if image.SnapshotUID == "" {
		image.SnapshotUID = noUID
	}
	ref := t.Reference(image)
	if err := check(ref); err != nil {
		return fmt.Errorf("the image of container %s would be %s: %w; names have to be shorter or the template another (--snapshot-image-template)", image.Container, ref, err)
	}
	return nil
}

const (
	maxTag        = 128
	maxRepository = 255
)

// check takes what the nodes' container runtime, which pulls the image, and the library that
// pushes it both take.
func check(ref string) error {
	host, path, _ := strings.Cut(ref, "/")
	repository, tag, _ := strings.Cut(path, ":")
	if (host == "docker.io" || host == name.DefaultRegistry) && strings.Count(repository, "/") != 1 {
		return errors.New("repositories of Docker Hub have two levels, account/name: use --snapshot-registry=docker.io/ACCOUNT --snapshot-image-template={registry}/{namespace}-{sandbox}-{container}:{tag}")
	}
	if len(tag) > maxTag {
		return fmt.Errorf("its tag has %d characters, %d are the most", len(tag), maxTag)
	}
	if len(repository) > maxRepository {
		return fmt.Errorf("its repository has %d characters, %d are the most", len(repository), maxRepository)
	}
	if _, err := name.NewTag(ref, name.StrictValidation); err != nil {
		return err
	}
	_, err := reference.ParseNormalizedNamed(ref)
	return err
}

// Configured says whether there is a registry to push to.
func (t *ImageTemplate) Configured() bool {
	return t.registry != ""
}

// Below says whether an image lies in the registry that there is to push to, and below the path of it.
func (t *ImageTemplate) Below(image string) bool {
	rest, found := strings.CutPrefix(image, t.registry)
	if !t.Configured() || !found || !strings.HasPrefix(rest, "/") && !strings.HasPrefix(rest, ":") {
		return false
	}
	// Up and out again is none.
	_, err := reference.ParseNormalizedNamed(image)
	return err == nil
}

// OfNode says whether the registry's address is a loopback one: then it is each node's own, as
// those are that local clusters (kind, minikube, MicroK8s) have. No Pod reaches it but on the
// node's network.
func (t *ImageTemplate) OfNode() bool {
	authority, _, _ := strings.Cut(t.registry, "/")
	host := strings.Trim(authority, "[]")
	if h, _, err := net.SplitHostPort(authority); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(host).IsLoopback()
}

// Reference is repository and tag of an image.
func (t *ImageTemplate) Reference(image Image) string {
	uid := strings.ReplaceAll(string(image.SnapshotUID), "-", "")
	tag := "snap-" + uid
	if image.Attempt > 0 {
		tag = fmt.Sprintf("snap-gen%d-%.8s", image.Attempt, uid)
	}
	return strings.NewReplacer(
		"{registry}", t.registry,
		"{namespace}", image.Namespace,
		"{sandbox}", image.Sandbox,
		"{container}", image.Container,
		"{uid}", uid,
		"{tag}", tag,
	).Replace(t.template)
}

var pauseSnapshotName = regexp.MustCompile(`-gen([0-9]+)$`)

var rescueSnapshotName = regexp.MustCompile(`-rescue([0-9]+)$`)

// Attempt is the number of the pause that a snapshot's name tells of, zero if it is none.
func Attempt(snapshot string) int64 { return number(pauseSnapshotName, snapshot) }

// Rescue is the number of the rescue that a snapshot's name tells of, zero if it is none.
func Rescue(snapshot string) int64 { return number(rescueSnapshotName, snapshot) }

func number(of *regexp.Regexp, snapshot string) int64 {
	match := of.FindStringSubmatch(snapshot)
	if match == nil {
		return 0
	}
	n, err := strconv.ParseInt(match[1], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// ByDigest is the reference that a resume uses: the repository of an image and the digest of
// its manifest, never a tag.
func ByDigest(image, digest string) (string, error) {
	tag, err := name.NewTag(image, name.WeakValidation)
	if err != nil {
		return "", fmt.Errorf("image %q of the snapshot: %w", image, err)
	}
	ref, err := name.NewDigest(tag.Repository.Name()+"@"+digest, name.StrictValidation)
	if err != nil {
		return "", fmt.Errorf("digest %q of image %q of the snapshot: %w", digest, image, err)
	}
	return ref.Name(), nil
}
