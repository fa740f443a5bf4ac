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

package v1alpha1

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"
)

// TestIsReason: whoever adds a reason to reasons.go adds it to the list as well.
func TestIsReason(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "reasons.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	ast.Inspect(file, func(node ast.Node) bool {
		value, is := node.(*ast.ValueSpec)
		if !is || !strings.HasPrefix(value.Names[0].Name, "Reason") || len(value.Values) == 0 {
			return true
		}
		if literal, is := value.Values[0].(*ast.BasicLit); is {
			reason, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			declared[reason] = true
			if !IsReason(reason) {
				t.Errorf("%s of reasons.go is missing in the list of isreason.go", value.Names[0].Name)
			}
		}
		return true
	})
	if len(declared) < 50 {
		t.Errorf("only %d reasons were found in reasons.go", len(declared))
	}
	if IsReason("MadeUp") || IsReason("") {
		t.Error("a reason that nobody has declared is taken for one")
	}
}
