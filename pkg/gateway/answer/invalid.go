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

package answer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	faster "github.com/go-faster/errors"
	"github.com/ogen-go/ogen/ogenerrors"
	"github.com/ogen-go/ogen/validate"
)

// codes are those of fields that have one of their own.
var codes = map[string]string{
	"port":       CodeInvalidPort,
	"expires":    CodeInvalidExpiration,
	"expiresAt":  CodeInvalidExpiration,
	"entrypoint": CodeInvalidEntrypoint,
	"metadata":   CodeInvalidMetadataLabel,
}

// ids are the parameters that name objects: what no object can be called is not there.
var ids = map[string]string{
	"sandboxId":  CodeSandboxNotFound,
	"snapshotId": CodeSnapshotNotFound,
}

// patchMetadata is the operation whose whole body is metadata.
const patchMetadata = "patchSandboxMetadata"

func invalid(path, message string, cause error) *Error {
	code, ok := codes[outermost(path)]
	if !ok {
		code = CodeInvalidParameter
	}
	return &Error{Status: http.StatusBadRequest, Code: code, Message: path + ": " + message, Cause: cause}
}

// outermost is the field of the body, or the parameter, that a path begins with.
func outermost(path string) string {
	if end := strings.IndexAny(path, ".["); end >= 0 {
		return path[:end]
	}
	return path
}

// ofParams says which parameter of the path, the query or the headers cannot be as it is.
func ofParams(err *ogenerrors.DecodeParamsError) *Error {
	var param *ogenerrors.DecodeParamError
	if !errors.As(err, &param) {
		return &Error{Status: http.StatusBadRequest, Code: CodeInvalidParameter, Message: "the request's parameters: " + leaf(err.Err), Cause: err}
	}
	a := invalid(param.Name, leaf(param.Err), err)
	if param.Name == "metadata" {
		a.Code = CodeInvalidMetadataFormat
	}
	var pattern *validate.NoRegexMatchError
	if code, ok := ids[param.Name]; ok && param.In == "path" && errors.As(param.Err, &pattern) {
		a.Status, a.Code = http.StatusNotFound, code
		a.Message = param.Name + ": there is nothing of this id, since it is no name that an object can have"
	}
	return a
}

// ofRequest says which field of the body cannot be as it is.
func ofRequest(err *ogenerrors.DecodeRequestError) *Error {
	var (
		tooLarge *http.MaxBytesError
		body     *ogenerrors.DecodeBodyError
		fields   *validate.Error
		media    *validate.InvalidContentTypeError
	)
	bad := func(format string, args ...any) *Error {
		return &Error{Status: http.StatusBadRequest, Code: CodeInvalidParameter, Message: fmt.Sprintf(format, args...), Cause: err}
	}
	var a *Error
	switch {
	case errors.As(err, &tooLarge):
		return &Error{
			Status: http.StatusRequestEntityTooLarge, Code: CodeBodyTooLarge, Cause: err,
			Message: fmt.Sprintf("the request's body has more than %d bytes", tooLarge.Limit),
		}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &Error{
			Status: http.StatusRequestTimeout, Code: CodeRequestTimeout, Cause: err,
			Message: "the request's body has not come in time; send it again",
		}
	case errors.Is(err, validate.ErrBodyRequired):
		return bad("the request's body is empty: it has to be a JSON object")
	case errors.As(err, &media):
		return &Error{
			Status: http.StatusUnsupportedMediaType, Code: CodeUnsupportedMediaType, Cause: err,
			Message: fmt.Sprintf("Content-Type: the request's body is to be application/json, and not %s", media.ContentType),
		}
	case errors.As(err, &body):
		if malformed := syntax(body.Body); malformed != "" {
			return bad("the request's body is no JSON: %s", malformed)
		}
		a = invalid(undecoded(body))
	case errors.As(err, &fields):
		a = invalid(unvalidated("", fields))
	default:
		return bad("the request's body could not be read: %s", leaf(err.Err))
	}
	a.Cause = err
	if err.OperationID() == patchMetadata {
		a.Code = CodeInvalidMetadataLabel
	}
	return a
}

// syntax is what is wrong with a text as JSON; empty: nothing is.
func syntax(body []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(body))
	var value json.RawMessage
	err := decoder.Decode(&value)
	var where *json.SyntaxError
	switch {
	case errors.As(err, &where):
		return fmt.Sprintf("%v, at byte %d", where, where.Offset)
	case err != nil:
		return err.Error()
	case decoder.More():
		return fmt.Sprintf("there is more after the end of the value, at byte %d", decoder.InputOffset())
	}
	return ""
}

var (
	decodedField    = regexp.MustCompile(`^decode field (".*")$`)
	decodedElement  = regexp.MustCompile(`^decode (\[\d+\])$`)
	unexpectedField = regexp.MustCompile(`^unexpected field (".*")$`)
)

// undecoded is the path of the field that is of another type than the document's, and what is wrong with it. The generated
// decoder says the way to it by wrapping errors, one a field.
func undecoded(body *ogenerrors.DecodeBodyError) (path, message string, cause error) {
	for err := body.Err; err != nil; err = errors.Unwrap(err) {
		said := own(err)
		var required *validate.Error
		if errors.As(err, &required) && errors.Unwrap(err) == nil {
			return unvalidated(path, required)
		}
		if match := decodedField.FindStringSubmatch(said); match != nil {
			path = join(path, unquote(match[1]))
		} else if match := decodedElement.FindStringSubmatch(said); match != nil {
			path += match[1]
		} else if match := unexpectedField.FindStringSubmatch(said); match != nil {
			return join(path, unquote(match[1])), "is no field of this request; /openapi.json has those that are", nil
		}
		var instant *time.ParseError
		if errors.As(err, &instant) && errors.Unwrap(err) == nil {
			return path, "is no time as RFC 3339 writes it, such as 2026-01-02T15:04:05Z", nil
		}
	}
	if path == "" {
		return "the request's body", "is not of the type that /openapi.json has for it", nil
	}
	return path, "is not of the type that /openapi.json has for it", nil
}

// unvalidated is the path of the first field that is of the right type and cannot be as it is all the same.
func unvalidated(path string, err *validate.Error) (_, message string, cause error) {
	if len(err.Fields) == 0 {
		return path, leaf(err), nil
	}
	first := err.Fields[0]
	if strings.HasPrefix(first.Name, "[") {
		path += first.Name
	} else {
		path = join(path, first.Name)
	}
	var inner *validate.Error
	if errors.As(first.Error, &inner) {
		return unvalidated(path, inner)
	}
	return path, leaf(first.Error), nil
}

func join(path, name string) string {
	if name == "" {
		name = `""`
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func unquote(s string) string {
	if plain, err := strconv.Unquote(s); err == nil {
		return plain
	}
	return s
}

// leaf is what the innermost error says.
func leaf(err error) string {
	var (
		number  *strconv.NumError
		pattern *validate.NoRegexMatchError
		instant *time.ParseError
	)
	switch {
	case errors.Is(err, validate.ErrFieldRequired):
		return "is missing"
	case errors.As(err, &number):
		return "is no number that is allowed here"
	case errors.As(err, &pattern):
		return "does not match " + pattern.Pattern.String()
	case errors.As(err, &instant):
		return "is no time as RFC 3339 writes it, such as 2026-01-02T15:04:05Z"
	}
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}

// own is what an error adds to the one that it wraps.
func own(err error) string {
	//nolint:errorlint // What is asked is what this very error says, and none that it wraps.
	if formatter, ok := err.(faster.Formatter); ok {
		var said printer
		_ = formatter.FormatError(&said)
		return said.String()
	}
	return err.Error()
}

type printer struct{ strings.Builder }

func (p *printer) Print(args ...any)                 { fmt.Fprint(p, args...) }
func (p *printer) Printf(format string, args ...any) { fmt.Fprintf(p, format, args...) }
func (p *printer) Detail() bool                      { return false }
