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

package execd

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// searchFiles is GET /files/search?path=&pattern=: the files below a directory whose names fit. Links are found and not
// followed; what may not be read is left out.
func searchFiles(w http.ResponseWriter, r *http.Request) error {
	root, err := queryPath(r)
	if err != nil {
		return err
	}
	pattern := r.URL.Query().Get("pattern")
	if pattern == "" {
		pattern = "**"
	}
	fits, err := glob(pattern)
	if err != nil {
		return err
	}
	if _, err := os.Stat(root); err != nil {
		return err
	}
	if there, err := filepath.EvalSymlinks(root); err == nil && there != root {
		root = there
	}
	list := newList(w)
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if path == root {
				return err
			}
			return fs.SkipDir
		}
		if entry.IsDir() {
			// The kernel's own: endless, and no files of the sandbox.
			if path != root && (path == "/proc" || path == "/sys") {
				return fs.SkipDir
			}
			return nil
		}
		relative := strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		if relative == "" {
			relative = entry.Name()
		}
		if !fits(relative) {
			return nil
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return list.add(path, info)
	})
	return list.end(err)
}

// glob understands * and ?, ** over directories, [abc] and {one,other}. A pattern without a slash is about the name alone,
// another one about the path below the root.
func glob(pattern string) (func(relative string) bool, error) {
	expression, err := regexp.Compile(`\A(?s:` + expressionOf(strings.TrimPrefix(pattern, "/")) + `)\z`)
	if err != nil {
		return nil, problem(http.StatusBadRequest, codeInvalidBody, "pattern %q is no pattern of file names: a bracket or brace in it does not end", pattern)
	}
	return func(relative string) bool {
		if !strings.Contains(pattern, "/") {
			relative = filepath.Base(relative)
		}
		return expression.MatchString(relative)
	}, nil
}

// expressionOf translates to a regular expression.
func expressionOf(pattern string) string {
	var b strings.Builder
	inBraces := false
	for i := 0; i < len(pattern); i++ {
		rest := pattern[i:]
		switch c := pattern[i]; {
		case strings.HasPrefix(rest, "**/"):
			b.WriteString(`(?:[^/]*/)*`)
			i += 2
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			i++
		case c == '*':
			b.WriteString(`[^/]*`)
		case c == '?':
			b.WriteString(`[^/]`)
		case c == '[':
			end := strings.IndexByte(rest[1:], ']')
			if end < 1 {
				return "(" // does not compile
			}
			class := strings.ReplaceAll(rest[1:1+end], `\`, `\\`)
			if class[0] == '!' {
				class = "^/" + class[1:]
			}
			b.WriteString("[" + class + "]")
			i += end + 1
		case c == '{' && !inBraces:
			b.WriteString("(?:")
			inBraces = true
		case c == '}' && inBraces:
			b.WriteString(")")
			inBraces = false
		case c == ',' && inBraces:
			b.WriteString("|")
		case c == '\\' && len(rest) > 1:
			i++
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		default:
			// Bytes of a character stay together: only ASCII has a meaning of its own.
			if c < 0x80 {
				b.WriteString(regexp.QuoteMeta(string(c)))
			} else {
				b.WriteByte(c)
			}
		}
	}
	return b.String()
}
