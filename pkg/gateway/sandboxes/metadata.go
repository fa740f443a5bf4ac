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
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
)

// reservedDomains are those whose labels mean something to Kubernetes or to this project. They are no metadata: callers see
// none of them, and set none.
var reservedDomains = []string{"opensandbox.io", "kubernetes.io", "k8s.io"}

func reserved(key string) bool {
	prefix, _, found := strings.Cut(key, "/")
	prefix = strings.ToLower(prefix)
	return found && slices.ContainsFunc(reservedDomains, func(domain string) bool {
		return prefix == domain || strings.HasSuffix(prefix, "."+domain)
	})
}

// metadataOf are a sandbox's labels without those that are reserved; nil where there is none.
func metadataOf(all map[string]string) map[string]string {
	var metadata map[string]string
	for key, value := range all {
		if reserved(key) {
			continue
		}
		if metadata == nil {
			metadata = make(map[string]string, len(all))
		}
		metadata[key] = value
	}
	return metadata
}

func (c *creation) checkMetadata(*Settings) error {
	for _, key := range slices.Sorted(maps.Keys(c.Metadata)) {
		if err := checkLabel(key, c.Metadata[key]); err != nil {
			return err
		}
	}
	return nil
}

func checkLabel(key, value string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if faults := validation.IsValidLabelValue(value); len(faults) > 0 {
		return badRequest(answer.CodeInvalidMetadataLabel, "metadata[%q]: %q is not the value of a label: %s", key, value, faults[0])
	}
	return nil
}

func checkKey(key string) error {
	if reserved(key) {
		prefix, _, _ := strings.Cut(key, "/")
		return badRequest(answer.CodeInvalidMetadataLabel, "metadata[%q]: the prefix %q is reserved; use one of your own, or none", key, prefix)
	}
	if faults := validation.IsQualifiedName(key); len(faults) > 0 {
		return badRequest(answer.CodeInvalidMetadataLabel, "metadata[%q]: is not the key of a label: %s", key, faults[0])
	}
	return nil
}

// labelPatch makes a merge patch of a sandbox's labels from one of its metadata, in which nil removes. It is nil where
// nothing is to be changed.
func labelPatch(changes map[string]*string) ([]byte, error) {
	if len(changes) == 0 {
		return nil, nil
	}
	for _, key := range slices.Sorted(maps.Keys(changes)) {
		value := changes[key]
		if value == nil {
			value = new(string)
		}
		if err := checkLabel(key, *value); err != nil {
			return nil, err
		}
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{"labels": changes}})
}

// selectorOf makes a selector of a query such as `k=v&k2=v2`, which is what the parameter metadata holds once it is decoded.
func selectorOf(query string) (labels.Selector, error) {
	wanted := labels.Set{}
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		key, value, found := strings.Cut(pair, "=")
		key, keyErr := url.QueryUnescape(key)
		value, valueErr := url.QueryUnescape(value)
		if !found || key == "" || keyErr != nil || valueErr != nil {
			return nil, badRequest(answer.CodeInvalidMetadataFormat, "metadata: %q is no key=value; join several by &, and encode the whole as one value", pair)
		}
		if err := checkLabel(key, value); err != nil {
			return nil, err
		}
		if before, twice := wanted[key]; twice && before != value {
			return nil, badRequest(answer.CodeInvalidMetadataFormat, "metadata: %q is asked for with two values, %q and %q, which no sandbox has", key, before, value)
		}
		wanted[key] = value
	}
	return labels.SelectorFromSet(wanted), nil
}

// annotationsOf keeps the extensions on the sandbox: as they came, to be given back, and those that are for others by names
// under which these look for them.
func annotationsOf(extensions map[string]string) (map[string]string, error) {
	if len(extensions) == 0 {
		return nil, nil
	}
	encoded, err := json.Marshal(extensions)
	if err != nil {
		return nil, err
	}
	annotations := map[string]string{annotationExtensions: string(encoded)}
	for key, value := range extensions {
		if _, found := strings.CutPrefix(key, extensionPrefix); found {
			annotations[annotationOf(key)] = value
		}
	}
	return annotations, nil
}

// annotationOf is the name that the reference gives an extension's annotation.
func annotationOf(extension string) string {
	return "opensandbox.io/" + strings.TrimPrefix(extension, "opensandbox.")
}

func (c *creation) checkExtensions(*Settings) error {
	total := 0
	for _, key := range slices.Sorted(maps.Keys(c.Extensions)) {
		total += len(key) + len(c.Extensions[key])
		if !strings.HasPrefix(key, extensionPrefix) {
			continue
		}
		if faults := validation.IsQualifiedName(annotationOf(key)); len(faults) > 0 {
			return invalid("extensions[%q]: what follows %s becomes the name of an annotation, and is none: %s", key, extensionPrefix, faults[0])
		}
	}
	// They are kept twice, and Kubernetes takes 256 KiB of annotations.
	if most := 64 << 10; total > most {
		return invalid("extensions: have %d bytes, and must have at most %d together", total, most)
	}
	return nil
}

// extensionsOf is the way back. What somebody else has written there is not passed on.
func extensionsOf(annotations map[string]string) map[string]string {
	encoded := annotations[annotationExtensions]
	if encoded == "" {
		return nil
	}
	var extensions map[string]string
	if json.Unmarshal([]byte(encoded), &extensions) != nil {
		return nil
	}
	return extensions
}

// describe has a value in a message, as long as it is short.
func describe(value string) string {
	if len(value) > 64 {
		return fmt.Sprintf("%q…", value[:64])
	}
	return fmt.Sprintf("%q", value)
}
