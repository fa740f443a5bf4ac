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

package validation

import (
	"fmt"
	"regexp"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// newFaults returns what is wrong with a changed object and was not wrong before. Rules get tighter,
// and a stored object that one of them refuses must not be lost by it: its labels, its verbs and its
// finalizers are still to be written. Kubernetes calls it ratcheting.
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-ratcheting
func newFaults(errs field.ErrorList, before func() field.ErrorList) field.ErrorList {
	if len(errs) == 0 {
		return nil
	}
	known := map[string]int{}
	for _, err := range before() {
		known[fault(err)]++
	}
	var found field.ErrorList
	for _, err := range errs {
		if of := fault(err); known[of] > 0 {
			known[of]--
			continue
		}
		found = append(found, err)
	}
	return found
}

var listIndex = regexp.MustCompile(`\[[0-9]+\]`)

// fault is which value of which field is wrong. Its place in a list does not matter, for what moves is no
// worse than it was, but how many of its list are wrong in that way does. Nor do the words, which name
// what else would be right.
func fault(err *field.Error) string {
	return fmt.Sprintf("%s %s %v", err.Type, listIndex.ReplaceAllString(err.Field, "[]"), err.BadValue)
}
