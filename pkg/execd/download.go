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
	"bufio"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// download is GET /files/download?path=: the file, a range of its bytes, or with offset and limit some of its lines.
func download(w http.ResponseWriter, r *http.Request) error {
	path, err := queryPath(r)
	if err != nil {
		return err
	}
	// A named pipe that nobody writes to would not open, and a device not end.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return problem(http.StatusBadRequest, codeInvalidFile, "%s is a directory; GET /directories/list lists it", path)
	}
	if !info.Mode().IsRegular() {
		return problem(http.StatusBadRequest, codeInvalidFile, "%s is no regular file", path)
	}
	query := r.URL.Query()
	if query.Has("offset") || query.Has("limit") {
		return downloadLines(w, r, file)
	}
	if err := satisfiable(r.Header.Get("Range"), info.Size()); err != nil {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", info.Size()))
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": filepath.Base(path)}))
	if info.Size() == 0 { // also what the kernel makes while it is read, below /proc
		_, _ = io.Copy(w, file)
		return nil
	}
	http.ServeContent(w, r, "", info.ModTime(), file)
	return nil
}

// satisfiable refuses a range that lies after the end, or is none, in the form of our errors.
func satisfiable(header string, size int64) error {
	if header == "" || size == 0 {
		return nil
	}
	refused := problem(http.StatusRequestedRangeNotSatisfiable, codeInvalidFile, "the range %q is not in a file of %d bytes", header, size)
	ranges, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return refused
	}
	inside := false
	for part := range strings.SplitSeq(ranges, ",") {
		first, last, ok := strings.Cut(strings.TrimSpace(part), "-")
		from, errFirst := strconv.ParseInt(first, 10, 64)
		to, errLast := strconv.ParseInt(last, 10, 64)
		switch {
		case !ok, first == "" && errLast != nil, first != "" && errFirst != nil, last != "" && errLast != nil, first != "" && last != "" && to < from:
			return refused
		case first == "" && to > 0, first != "" && from < size:
			inside = true
		}
	}
	if !inside {
		return refused
	}
	return nil
}

// downloadLines sends limit lines from the offset on, which counts from 1.
func downloadLines(w http.ResponseWriter, r *http.Request, file io.Reader) error {
	if r.Header.Get("Range") != "" {
		return problem(http.StatusBadRequest, codeInvalidBody, "offset and limit count lines, and Range counts bytes: use one of them")
	}
	offset, err := positive(r, "offset", 1)
	if err != nil {
		return err
	}
	limit, err := positive(r, "limit", -1)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	reader := bufio.NewReaderSize(file, 64<<10)
	for line := int64(1); limit < 0 || line < offset+limit; {
		part, err := reader.ReadSlice('\n')
		if line >= offset {
			if _, err := w.Write(part); err != nil {
				return nil //nolint:nilerr // the client is gone
			}
		}
		switch {
		case err == nil:
			line++
		case !errors.Is(err, bufio.ErrBufferFull): // the end
			return nil
		}
	}
	return nil
}

func positive(r *http.Request, name string, otherwise int64) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		return 0, problem(http.StatusBadRequest, codeInvalidBody, "%s %q is not a number from 1 on", name, text)
	}
	return min(n, 1<<60), nil
}
