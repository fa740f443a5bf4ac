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
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"syscall"
)

// replacement is what is to be replaced in a file, and by what.
type replacement struct {
	Old string `json:"old"`
	New string `json:"new"`
}

// maxReplaced is how large a file may be whose content is replaced: it is read whole.
const maxReplaced = 64 << 20

// replaceContents is POST /files/replace {path: {old, new}}; with verbose=true it tells how often.
func replaceContents(w http.ResponseWriter, r *http.Request) error {
	var request map[string]replacement
	if err := readJSON(w, r, &request, false); err != nil {
		return err
	}
	for given, item := range request {
		path, err := absolute(given)
		if err != nil {
			return err
		}
		if item.Old == "" {
			return problem(http.StatusBadRequest, codeInvalidBody, "%s: old is empty", given)
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return problem(http.StatusBadRequest, codeInvalidFile, "%s is no regular file", given)
		}
		if info.Size() > maxReplaced {
			return problem(http.StatusRequestEntityTooLarge, codeInvalidFile, "%s has %d MiB; contents are replaced up to %d MiB, use sed in a command", given, info.Size()>>20, maxReplaced>>20)
		}
	}
	type result struct {
		Count int `json:"replacedCount"`
	}
	results := map[string]result{}
	for given, item := range request {
		path, _ := absolute(given)
		count, err := replace(path, item)
		if err != nil {
			return err
		}
		results[given] = result{count}
	}
	if r.URL.Query().Get("verbose") == "true" {
		return writeJSON(w, results)
	}
	return nil
}

// replace writes in place, so that owner, mode and links stay. A file without the old text is not written to.
func replace(path string, item replacement) (int, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		// Nothing may have to be written.
		if content, failed := os.ReadFile(path); failed == nil && !bytes.Contains(content, []byte(item.Old)) {
			return 0, nil
		}
	}
	if err != nil {
		return 0, err
	}
	content, err := io.ReadAll(io.LimitReader(file, maxReplaced))
	if err != nil {
		return 0, errors.Join(err, file.Close())
	}
	count := bytes.Count(content, []byte(item.Old))
	if count == 0 {
		return 0, file.Close()
	}
	replaced := bytes.ReplaceAll(content, []byte(item.Old), []byte(item.New))
	_, err = file.WriteAt(replaced, 0)
	if err == nil {
		err = file.Truncate(int64(len(replaced)))
	}
	return count, errors.Join(err, file.Close())
}
