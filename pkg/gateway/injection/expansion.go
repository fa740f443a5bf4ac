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

package injection

import "strings"

// Literal has Kubernetes take a text as it is. In commands and values of the environment it replaces $(NAME) by that variable, and
// $$ by $, which would make another command of `echo $$`, and of a password that happens to look so another one.
// https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
func Literal(text string) string {
	if !strings.Contains(text, "$") {
		return text
	}
	var b strings.Builder
	for i := range len(text) {
		b.WriteByte(text[i])
		if text[i] == '$' && i+1 < len(text) && (text[i+1] == '$' || text[i+1] == '(') {
			b.WriteByte('$')
		}
	}
	return b.String()
}

// Unliteral is the way back. References to variables, which Literal leaves none of, stay as they are.
func Unliteral(text string) string { return strings.ReplaceAll(text, "$$", "$") }

func escape(texts []string) []string { return each(texts, Literal) }

func unescape(texts []string) []string { return each(texts, Unliteral) }

func each(texts []string, do func(string) string) []string {
	done := make([]string, len(texts))
	for i, text := range texts {
		done[i] = do(text)
	}
	return done
}
