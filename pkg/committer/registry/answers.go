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

package registry

import (
	"html"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// meaning is what an answer that is no success means: its reason, and what a person can do.
// docs/troubleshooting.md has the same table.
type meaning struct {
	// answer describes those that are meant, in the documentation.
	answer string
	is     func(*transport.Error) bool
	reason result.Reason
	advice string
}

// meanings are gone through from the top; the last fits any answer.
//
// None of the reasons stops a pause for good: a quota is raised, a secret replaced, a proxy
// mended while it goes on trying, with its backoff. Nothing but RegistryUnavailable is worth a
// try at once.
var meanings = []meaning{
	{"400, 401, 403 of its token server", all(status(400, 401, 403), ofTokenServer), result.PushSecretInvalid,
		"the server that gives tokens for it refuses the push secret"},
	{"401; 403 `UNAUTHORIZED`", either(status(401), all(status(403), code(transport.UnauthorizedErrorCode))), result.PushSecretInvalid,
		"the push secret has no credentials that it takes, or their account may not push there"},
	{"404 to the greeting `/v2/`", all(status(404), toGreeting), result.RegistryUnavailable,
		"is there a registry at this address?"},
	{"404 to a read", all(status(404), toRead), result.CommitJobFailed,
		"it does not have that (any more)"},
	{"`BLOB_UPLOAD_UNKNOWN`, `BLOB_UPLOAD_INVALID`, 416", either(code(transport.BlobUploadUnknownErrorCode, transport.BlobUploadInvalidErrorCode), status(416)), result.RegistryUnavailable,
		"it forgets uploads that it has begun: was it restarted? Its replicas have to share them"},
	{"`DIGEST_INVALID`", code(transport.DigestInvalidErrorCode), result.RegistryUnavailable,
		"what it got is not what was sent: something between changes it"},
	{"`BLOB_UNKNOWN`, `MANIFEST_BLOB_UNKNOWN`", code("BLOB_UNKNOWN", transport.ManifestBlobUnknownErrorCode), result.RegistryUnavailable,
		"it has lost a layer that it had a moment ago: was it collecting garbage?"},
	{"429 (`TOOMANYREQUESTS`)", either(status(429), code(transport.TooManyRequestsErrorCode)), result.RegistryUnavailable,
		"it is asked too often, by this account or address"},
	{"507", status(507), result.RegistryUnavailable,
		"its disk or quota is full"},
	{"408, and all from 500", func(e *transport.Error) bool { return e.StatusCode == http.StatusRequestTimeout || e.StatusCode >= 500 }, result.RegistryUnavailable,
		"this is the registry's own trouble, or of a proxy before it"},
	{"`TAG_INVALID`; 409, 412", either(code(transport.TagInvalidErrorCode), status(409, 412)), result.RegistryDenied,
		"it has a rule against this tag, or has the tag and keeps it as it is"},
	{"`NAME_INVALID`", code(transport.NameInvalidErrorCode), result.RegistryDenied,
		"it takes no repository of that name: one with fewer levels, perhaps (--snapshot-image-template)"},
	{"404, `NAME_UNKNOWN`", either(status(404), code(transport.NameUnknownErrorCode)), result.RegistryDenied,
		"the repository, or the project it is in, does not exist, and a push does not make it: create it, or let the registry do so (ECR: a template with create on push)"},
	{"405", status(405), result.RegistryDenied,
		"it is read-only, or a mirror"},
	{"411", status(411), result.RegistryDenied,
		"a proxy before it has to let bodies through whose length is not known (chunked)"},
	{"413", status(413), result.RegistryDenied,
		"it, or a proxy before it, bounds the size of a body: raise that (nginx: client_max_body_size 0; its ingress: the annotation nginx.ingress.kubernetes.io/proxy-body-size with 0)"},
	{"400 (`MANIFEST_INVALID`), 415, `UNSUPPORTED`", either(status(400, 415), code(transport.ManifestInvalidErrorCode, transport.UnsupportedErrorCode)), result.RegistryDenied,
		"does it take OCI images with layers of zstd? Else --layer-compression=gzip"},
	{"402, 403 (`DENIED`), any other from 400", func(e *transport.Error) bool { return e.StatusCode >= 400 }, result.RegistryDenied,
		"a quota or a rule of the registry forbids it, or the account may not do it"},
	{"anything else", func(*transport.Error) bool { return true }, result.RegistryUnavailable,
		"no registry answers so: is there one at this address?"},
}

func meaningOf(e *transport.Error) meaning {
	return meanings[slices.IndexFunc(meanings, func(m meaning) bool { return m.is(e) })]
}

func status(codes ...int) func(*transport.Error) bool {
	return func(e *transport.Error) bool { return slices.Contains(codes, e.StatusCode) }
}

func code(codes ...transport.ErrorCode) func(*transport.Error) bool {
	return func(e *transport.Error) bool {
		return e.StatusCode < 500 && slices.ContainsFunc(e.Errors, func(d transport.Diagnostic) bool { return slices.Contains(codes, d.Code) })
	}
}

// ofTokenServer is whether the answer is one to a request for a token.
func ofTokenServer(e *transport.Error) bool {
	return e.Request != nil && !strings.HasPrefix(e.Request.URL.Path, "/v2/")
}

func toGreeting(e *transport.Error) bool { return e.Request != nil && e.Request.URL.Path == "/v2/" }

func toRead(e *transport.Error) bool {
	return e.Request != nil && (e.Request.Method == http.MethodGet || e.Request.Method == http.MethodHead)
}

func all(conditions ...func(*transport.Error) bool) func(*transport.Error) bool {
	return func(e *transport.Error) bool {
		for _, holds := range conditions {
			if !holds(e) {
				return false
			}
		}
		return true
	}
}

func either(conditions ...func(*transport.Error) bool) func(*transport.Error) bool {
	return func(e *transport.Error) bool {
		return slices.ContainsFunc(conditions, func(holds func(*transport.Error) bool) bool { return holds(e) })
	}
}

// maxWords is how much is repeated of what a registry says.
const maxWords = 300

var (
	notSaid = regexp.MustCompile(`(?is)<(script|style|head)\b.*?</(script|style|head)>|<[^>]*>`)
	title   = regexp.MustCompile(`(?is)<title[^>]*>(.*?)</title>`)
)

// words are what the registry says, in its own words: proxies answer with whole web pages, and
// some with nothing.
func words(e *transport.Error) string {
	var said []string
	for _, d := range e.Errors {
		word := strings.Trim(string(d.Code)+": "+d.Message, ": ")
		if word != "" && !slices.Contains(said, word) {
			said = append(said, word)
		}
	}
	text := strings.Join(said, "; ")
	if text == "" {
		if _, raw, ok := strings.Cut(withoutRequest(e), http.StatusText(e.StatusCode)+": "); ok {
			text = raw
			if found := title.FindStringSubmatch(raw); len(found) == 2 && strings.TrimSpace(found[1]) != "" {
				text = found[1]
			}
			text = html.UnescapeString(notSaid.ReplaceAllString(text, " "))
		}
	}
	text = strings.Join(strings.Fields(text), " ")
	if text == "" {
		text = http.StatusText(e.StatusCode)
	}
	return shorten(text, maxWords)
}

// withoutRequest is the error's text without what was asked.
func withoutRequest(e *transport.Error) string {
	alone := *e
	alone.Request = nil
	return alone.Error()
}

func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
